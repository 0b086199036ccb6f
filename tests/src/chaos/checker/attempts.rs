// SPDX-License-Identifier: Apache-2.0

//! I12: an attempt is charged only for something that may be the build's fault.
//!
//! The build may have killed its worker, and may be the reason for a registry's refusal. It has
//! nothing to do with the death of a NATS server or a dispatcher.

use slipway_proto::Timestamp;

use super::Findings;
use super::facts::{BuildFacts, Event, Facts};

/// How long a healed fault still has effects, through requests that were on their way.
const AFTERMATH: std::time::Duration = std::time::Duration::from_secs(3);

/// Reasons that come from the request and not from an attempt.
const OF_THE_REQUEST: [&str; 2] = ["QueueTimeout", "DeadlineExceeded"];

/// Every charge has a fault that explains it.
pub(super) fn charges(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        let started = build.events("started");
        let mut before: Option<&Event<'_>> = None;
        for event in &started {
            let attempt = event.number("attempt");
            let expected = before.map_or(1, |before| before.number("attempt"));
            if attempt > expected {
                let (from, to, worker) = charged(build, before, event);
                if !is_explained(facts, from, to, worker) {
                    let text = format!(
                        "attempt {attempt} (epoch {}): an attempt between {from} and {to} was \
                        charged, and nothing happened to it",
                        event.number("epoch")
                    );
                    findings.add("I12", id, text);
                }
            }
            before = Some(event);
        }
        failures(facts, id, build, findings);
    }
}

/// Returns the time of the charged attempt, and its worker if it is known.
fn charged<'a>(
    build: &BuildFacts<'a>,
    before: Option<&Event<'a>>,
    next: &Event<'a>,
) -> (Timestamp, Timestamp, Option<&'a str>) {
    let Some(before) = before else {
        // Claims whose worker died before it could announce them.
        let accepted = build.record().and_then(|record| super::facts::time(&record["accepted_at"]));
        return (accepted.or(build.accepted).unwrap_or(next.time), next.time, None);
    };
    let epoch = before.number("epoch");
    if next.number("epoch") > epoch + 1 {
        return (before.time, next.time, None);
    }
    let retrying = build.events("retrying");
    let end = retrying.iter().find(|event| event.number("epoch") == epoch);
    let to = end.map_or(next.time, |event| event.time);
    (before.time, to, before.data["worker"].as_str())
}

fn is_explained(facts: &Facts<'_>, from: Timestamp, to: Timestamp, worker: Option<&str>) -> bool {
    let from = from.checked_sub(AFTERMATH).unwrap_or(from);
    let workers: Vec<String> = match worker {
        Some(worker) => vec![worker.to_owned()],
        None => (0..crate::chaos::plan::WORKERS)
            .map(|number| crate::chaos::plan::Target::Worker(number).to_string())
            .collect(),
    };
    let hits_worker =
        |span: &super::facts::Span<'_>| workers.iter().any(|worker| span.hits_worker(worker));
    let explains = |span: &&super::facts::Span<'_>| span.hits_registry() || hits_worker(span);
    facts.faults.iter().filter(explains).any(|span| span.overlaps(from, to))
        || facts.exits().any(|(at, process, _)| {
            workers.iter().any(|worker| worker == process) && from <= at && at <= to
        })
}

/// A build that failed had an attempt that a fault can have broken.
fn failures(facts: &Facts<'_>, id: &str, build: &BuildFacts<'_>, findings: &mut Findings) {
    if build.phase() != "failed" {
        return;
    }
    let finished = build.events("finished");
    let Some(finished) = finished.last() else { return };
    let reason = finished.data["failure"]["reason"].as_str().unwrap_or_default();
    if OF_THE_REQUEST.contains(&reason) {
        return;
    }
    let started = build.events("started");
    let from = started.first().map_or(finished.time, |event| event.time);
    if !is_explained(facts, from, finished.time, None) {
        let text = format!(
            "failed at {} without any fault that explains it: {}",
            finished.time, finished.data["failure"]
        );
        findings.add("I12", id, text);
    }
}
