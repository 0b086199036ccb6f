// SPDX-License-Identifier: Apache-2.0

//! Last submitted wins: a tag ends at the build that was accepted last among those that wrote it.

use std::collections::BTreeMap;

use super::facts::{BuildFacts, Facts};
use super::images::is_effective;
use super::{Class, Findings};
use crate::chaos::history::What;
use crate::faulty_registry::ManifestWrite;

type Claimants<'f, 'a> = Vec<(&'a str, &'f BuildFacts<'a>)>;

/// The builds of each reference, in the order of acceptance. Builds without an order are left out:
/// they are from before there was one.
fn claimants<'f, 'a>(facts: &'f Facts<'a>) -> BTreeMap<&'a str, Claimants<'f, 'a>> {
    let mut by_reference: BTreeMap<&str, Claimants<'_, '_>> = BTreeMap::new();
    for (id, build) in &facts.builds {
        if build.order() > 0 {
            for reference in build.references() {
                by_reference.entry(reference).or_default().push((*id, build));
            }
        }
    }
    for builds in by_reference.values_mut() {
        builds.sort_by_key(|(_, build)| build.order());
    }
    by_reference
}

fn writes_of<'a>(
    build: &BuildFacts<'a>,
    reference: &str,
) -> impl Iterator<Item = &'a ManifestWrite> {
    let (repository, tag) = split(reference);
    let (repository, tag) = (repository.to_owned(), tag.to_owned());
    build.own_writes().filter(move |write| {
        write.repository == repository && write.reference == tag && is_effective(write)
    })
}

/// Splits `registry/repository:tag` into repository and tag.
fn split(reference: &str) -> (&str, &str) {
    let path = reference.split_once('/').map_or(reference, |(_, path)| path);
    path.rsplit_once(':').unwrap_or((path, "latest"))
}

/// Each tag points at the image of its last build.
pub(super) fn owners(facts: &Facts<'_>, findings: &mut Findings) {
    let claimants = claimants(facts);
    for entry in facts.entries {
        let What::Tag { reference, digest } = &entry.what else { continue };
        let Some(builds) = claimants.get(reference.as_str()) else { continue };
        let last = builds.iter().rposition(|(_, build)| build.phase() == "succeeded");
        let owner = last.map(|place| builds[place]);
        let mut allowed: Vec<&str> = owner.iter().filter_map(|(_, build)| build.digest()).collect();
        // Builds that failed after they began to write the tag.
        for (_, build) in &builds[last.map_or(0, |place| place + 1)..] {
            allowed.extend(writes_of(build, reference).map(|write| write.digest.as_str()));
        }
        let right = match digest {
            Some(digest) => allowed.contains(&digest.as_str()),
            None => owner.is_none(),
        };
        if !right {
            let whose = digest
                .as_deref()
                .and_then(|digest| builds.iter().find(|(_, build)| build.digest() == Some(digest)));
            let text = format!(
                "{reference} points at {digest:?} (of the build {:?}, order {:?}), and must at \
                {allowed:?} (order {:?})",
                whose.map(|(id, _)| id),
                whose.map(|(_, build)| build.order()),
                owner.map(|(_, build)| build.order()),
            );
            let build = owner.map_or("none", |(id, _)| id);
            findings.add_as(Class::WrongTag, "tag", build, text);
        }
    }
}

/// A build that succeeded owns each of its tags or names the build that took it.
pub(super) fn superseded(facts: &Facts<'_>, findings: &mut Findings) {
    for (reference, builds) in claimants(facts) {
        for (place, (id, build)) in builds.iter().enumerate() {
            if build.phase() != "succeeded" {
                continue;
            }
            let by = superseded_by(build, reference);
            if let Some(by) = by
                && !builds[place + 1..].iter().any(|(newer, _)| *newer == by)
            {
                let text = format!(
                    "{reference} is said to be taken by {by}, which is no newer build of it"
                );
                findings.add_as(Class::WrongTag, "tag", id, text);
            }
            if by.is_none() {
                owns(reference, id, build, &builds[place + 1..], findings);
            }
        }
    }
}

fn superseded_by<'a>(build: &BuildFacts<'a>, reference: &str) -> Option<&'a str> {
    let image = &build.record()?["state"]["phase"]["image"];
    let taken = image["superseded"].as_array()?;
    let entry = taken.iter().find(|taken| taken["reference"].as_str() == Some(reference))?;
    entry["by"].as_str()
}

fn owns(
    reference: &str,
    id: &str,
    build: &BuildFacts<'_>,
    newer: &[(&str, &BuildFacts<'_>)],
    findings: &mut Findings,
) {
    let first = writes_of(build, reference).map(|write| write.received_at).min();
    let Some(first) = first else {
        let text = format!("it says that it owns {reference}, and never wrote it");
        findings.add_as(Class::WrongTag, "tag", id, text);
        return;
    };
    let before = newer.iter().find(|(_, newer)| {
        newer.phase() == "succeeded"
            && superseded_by(newer, reference).is_none()
            && newer.finished_at().is_some_and(|time| time < first)
    });
    if let Some((newer, facts)) = before {
        let text = format!(
            "it says that it owns {reference}, which it first wrote at {first}; the newer build \
            {newer} had it since {:?}",
            facts.finished_at()
        );
        findings.add_as(Class::WrongTag, "tag", id, text);
    }
}
