// SPDX-License-Identifier: Apache-2.0

//! What a run did and found, for people. The last line is for machines too.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use slipway_proto::Timestamp;

use super::checker::facts::{Event, Facts, Span};
use super::checker::{Class, Violation};
use super::faults::{ANSWERS_AFTER, CRASHED, FROZEN};
use super::history::{Ask, Entry, What};
use super::plan::{Fault, Target};

/// How many violations are shown.
const MAX_SHOWN_VIOLATIONS: usize = 60;

/// What a run did and found.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    builds: usize,
    faults: usize,
    lines: Vec<String>,
    /// The violations.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Makes the report of a history that was checked.
    #[must_use]
    pub fn of(entries: &[Entry], violations: Vec<Violation>) -> Self {
        let facts = Facts::of(entries);
        let seed = entries.iter().find_map(|entry| match &entry.what {
            What::Began { seed, .. } => Some(*seed),
            _ => None,
        });
        let mut lines = vec![asked(entries), outcomes(&facts), registry(&facts)];
        lines.push(crashes(entries));
        lines.extend(recoveries(entries, &facts));
        let (builds, faults) = (facts.accepted().count(), facts.faults.len());
        Self { seed: seed.unwrap_or(0), builds, faults, lines, violations }
    }

    /// Returns how many builds were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.builds
    }

    /// Returns the number of violations of a class.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.violations.iter().filter(|violation| violation.class == class).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for violation in self.violations.iter().take(MAX_SHOWN_VIOLATIONS) {
            writeln!(f, "violation of {violation}")?;
        }
        if self.violations.len() > MAX_SHOWN_VIOLATIONS {
            writeln!(f, "and {} more", self.violations.len() - MAX_SHOWN_VIOLATIONS)?;
        }
        write!(
            f,
            "chaos: seed {}, builds {}, faults {}, lost {}, duplicated {}, stuck {}, wrong tag \
            {}, violations {}",
            self.seed,
            self.builds,
            self.faults,
            self.count(Class::Lost),
            self.count(Class::Duplicated),
            self.count(Class::Stuck),
            self.count(Class::WrongTag),
            self.violations.len()
        )
    }
}

/// The requests of clients and their answers.
fn asked(entries: &[Entry]) -> String {
    let mut kinds = BTreeMap::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        match &entry.what {
            What::Asked { call, ask, .. } => {
                let kind = match ask {
                    Ask::Submit { .. } => "submit",
                    Ask::Cancel { .. } => "cancel",
                    Ask::CancelAll { .. } => "cancel all",
                    Ask::Replay { .. } => "replay",
                };
                kinds.insert(*call, kind);
            }
            What::Answered { call, status, .. } => {
                let kind = kinds.get(call).copied().unwrap_or("?");
                let answer = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
                *counts.entry(format!("{kind} {answer}")).or_default() += 1;
            }
            _ => {}
        }
    }
    format!("answers: {}", listed(&counts))
}

fn outcomes(facts: &Facts<'_>) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (_, build) in facts.accepted() {
        let finished = build.events("finished");
        let reason = finished.last().and_then(|event| event.data["failure"]["reason"].as_str());
        let phase = match build.phase() {
            "" => "lost",
            phase => phase,
        };
        let name = reason.map_or_else(|| phase.to_owned(), |reason| format!("{phase} {reason}"));
        *counts.entry(name).or_default() += 1;
        let attempts = build.events("started").len();
        *counts.entry("claims".to_owned()).or_default() += u64::try_from(attempts).unwrap_or(0);
    }
    let superseded = facts.accepted().filter(|(_, build)| {
        let message =
            build.record().and_then(|record| record["state"]["phase"]["message"].as_str());
        message.is_some_and(|message| message.contains("supersede"))
    });
    counts.insert("of these superseded".to_owned(), superseded.count() as u64);
    format!("outcomes: {}", listed(&counts))
}

fn registry(facts: &Facts<'_>) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for write in &facts.writes {
        let name = match &write.writer {
            Some(writer) if writer.repairs.is_some() => "repairs of tags",
            Some(_) => "tags",
            None => "others",
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    format!("manifests written: {}", listed(&counts))
}

/// The failpoints at which a process died or was stopped.
fn crashes(entries: &[Entry]) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        if let What::FaultNote { note, .. } = &entry.what
            && (note.starts_with(CRASHED) || note.starts_with(FROZEN))
        {
            *counts.entry(note.clone()).or_default() += 1;
        }
    }
    format!("failpoints: {}", listed(&counts))
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.join(", ")
}

/// The longest time from each kind of loss until work continued.
fn recoveries(entries: &[Entry], facts: &Facts<'_>) -> Vec<String> {
    let answers = entries.iter().filter_map(|entry| match &entry.what {
        What::FaultNote { note, .. } => {
            let seconds = note.strip_prefix(ANSWERS_AFTER)?.strip_suffix(" s")?;
            seconds.parse::<f64>().ok().map(Duration::from_secs_f64)
        }
        _ => None,
    });
    let ends = facts.accepted().filter_map(|(_, build)| {
        // A replay counts separately.
        let finished = build.events("finished").first().map(|event| event.time)?;
        between(build.accepted?, finished)
    });
    let longest = [
        (
            "worker lost, its build started again",
            facts.faults.iter().flat_map(|span| restarts(facts, span)).max(),
        ),
        (
            "NATS back, the next event stored",
            facts.faults.iter().filter_map(|span| next_event(entries, span)).max(),
        ),
        ("dispatcher started, it answers", answers.max()),
        ("submitted, finished", ends.max()),
    ];
    let line = |(what, time): (&str, Option<Duration>)| {
        let time = time
            .map_or_else(|| "not seen".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
        format!("longest: {what}: {time}")
    };
    longest.into_iter().map(line).collect()
}

/// How long it took until the builds of a lost worker started again.
fn restarts(facts: &Facts<'_>, span: &Span<'_>) -> Vec<Duration> {
    let Fault::Kill { target: Target::Worker(_) } = span.fault else { return Vec::new() };
    let mut times = Vec::new();
    for build in facts.builds.values() {
        let started = build.events("started");
        let outcomes = build.events("finished");
        let retries = build.events("retrying");
        for pair in started.windows(2) {
            let epoch = pair[0].number("epoch");
            let of_this_attempt = |event: &Event<'_>| event.number("epoch") == epoch;
            let held = span.hits_worker(pair[0].text("worker"))
                && pair[0].time <= span.begun
                && pair[1].time > span.begun
                && !outcomes.iter().chain(&retries).any(|event| of_this_attempt(event));
            if held {
                times.extend(between(span.begun, pair[1].time));
            }
        }
    }
    times
}

fn next_event(entries: &[Entry], span: &Span<'_>) -> Option<Duration> {
    if !span.hits_nats() {
        return None;
    }
    let stored = entries.iter().filter_map(|entry| match &entry.what {
        What::Event(seen) if seen.stored_at > span.ended => Some(seen.stored_at),
        _ => None,
    });
    between(span.ended, stored.min()?)
}

fn between(from: Timestamp, to: Timestamp) -> Option<Duration> {
    Duration::try_from(to.duration_since(from)).ok()
}
