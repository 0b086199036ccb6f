// SPDX-License-Identifier: Apache-2.0

//! Reads a history and reports every invariant that it breaks.
//!
//! The checks are pure functions of the history, without clock or network, so that a test can show
//! each of them a history that breaks its invariant. I9, fairness between projects, is reserved:
//! there is no fairness yet.

mod attempts;
pub(crate) mod facts;
mod fencing;
mod images;
mod logs;
mod outcomes;
mod rest;
mod tags;

use std::fmt;

use super::history::Entry;
use facts::Facts;

/// The class of a violation in the last line of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// An accepted build is gone.
    Lost,
    /// A build was done twice.
    Duplicated,
    /// A build has no end.
    Stuck,
    /// A tag points at the wrong image.
    WrongTag,
    /// Anything else.
    Other,
}

/// A violation of an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its class.
    pub class: Class,
    /// The invariant, as `I4`.
    pub invariant: &'static str,
    /// The build, if it is about one.
    pub build: Option<String>,
    /// What was observed, with times.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.invariant)?;
        if let Some(build) = &self.build {
            write!(f, "build {build}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// Collects violations of one invariant.
pub(crate) struct Findings {
    violations: Vec<Violation>,
}

impl Findings {
    fn add(&mut self, invariant: &'static str, build: &str, text: String) {
        self.add_as(Class::Other, invariant, build, text);
    }

    fn add_as(&mut self, class: Class, invariant: &'static str, build: &str, text: String) {
        let build = Some(build.to_owned());
        self.violations.push(Violation { class, invariant, build, text });
    }

    fn add_general(&mut self, class: Class, invariant: &'static str, text: String) {
        self.violations.push(Violation { class, invariant, build: None, text });
    }
}

/// Checks everything.
#[must_use]
pub fn check(entries: &[Entry]) -> Vec<Violation> {
    let facts = Facts::of(entries);
    let mut findings = Findings { violations: Vec::new() };
    outcomes::one_end(&facts, &mut findings);
    outcomes::keys(&facts, &mut findings);
    outcomes::ends_stay(&facts, &mut findings);
    outcomes::order_of_events(&facts, &mut findings);
    outcomes::views(&facts, &mut findings);
    fencing::epochs(&facts, &mut findings);
    fencing::cancelled(&facts, &mut findings);
    fencing::duplicates(&facts, &mut findings);
    logs::chunks(&facts, &mut findings);
    logs::over_http(&facts, &mut findings);
    images::published(&facts, &mut findings);
    attempts::charges(&facts, &mut findings);
    tags::owners(&facts, &mut findings);
    tags::superseded(&facts, &mut findings);
    rest::queue(&facts, &mut findings);
    rest::usage(&facts, &mut findings);
    rest::exits(&facts, &mut findings);
    findings.violations
}

#[cfg(test)]
mod tests;
