// SPDX-License-Identifier: Apache-2.0

//! I4 and I6, and builds that were done twice: of several workers with one build, only the last may
//! do anything that others can see, and none once the build is cancelled.

use std::collections::BTreeSet;

use slipway_proto::Timestamp;

use super::facts::{BuildFacts, Facts, epoch};
use super::{Class, Findings};
use crate::chaos::history::What;

/// How long a worker holds a build without extending its lease.
const LEASE: std::time::Duration = std::time::Duration::from_secs(15);

/// The longest time a message is on its way to a worker.
const UNDER_WAY: std::time::Duration = std::time::Duration::from_millis(500);

/// I4: epochs only grow, and an older one writes no tag.
pub(super) fn epochs(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        let mut last = 0;
        for event in build.events("started") {
            let epoch = event.number("epoch");
            if epoch <= last {
                let text = format!(
                    "epoch {epoch} started in event {} ({}), after epoch {last}",
                    event.sequence, event.time
                );
                findings.add("I4", id, text);
            }
            last = last.max(epoch);
        }
        let mut last = 0;
        for seen in &build.records {
            let Some(record) = &seen.record else { continue };
            if epoch(record) < last {
                let text = format!(
                    "its record went back from epoch {last} to {} at revision {} ({})",
                    epoch(record),
                    seen.revision,
                    seen.stored_at
                );
                findings.add("I4", id, text);
            }
            last = last.max(epoch(record));
        }
        let finished = build.events("finished");
        let succeeded =
            finished.iter().filter(|event| event.text("outcome") == "succeeded").count();
        if succeeded > 1 {
            findings.add_as(Class::Duplicated, "I4", id, format!("it succeeded {succeeded} times"));
        }
        late_writes(id, build, findings);
    }
}

fn late_writes(id: &str, build: &BuildFacts<'_>, findings: &mut Findings) {
    let mut takeovers: Vec<(u64, Timestamp, &str)> = build
        .events("started")
        .iter()
        .map(|event| (event.number("epoch"), event.time, "started"))
        .collect();
    if let (Some(record), Some(time)) = (build.record(), build.finished_at()) {
        takeovers.push((epoch(record), time, "got its outcome"));
    }
    for write in build.own_writes() {
        let Some(writer) = &write.writer else { continue };
        let newer = takeovers
            .iter()
            .find(|(epoch, time, _)| *epoch > writer.epoch && *time < write.received_at);
        if let Some((epoch, time, what)) = newer {
            let text = format!(
                "epoch {} wrote the tag {}:{} at {}, and epoch {epoch} {what} at {time}",
                writer.epoch, write.repository, write.reference, write.received_at
            );
            findings.add("I4", id, text);
        }
    }
}

/// I6: a build that was cancelled writes no tag.
pub(super) fn cancelled(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        if build.phase() != "cancelled" {
            continue;
        }
        let never_claimed = build.record().is_some_and(|record| epoch(record) == 0);
        let cancelled_at = build.finished_at();
        for write in build.own_writes() {
            let late = cancelled_at.is_none_or(|time| write.received_at > time);
            if never_claimed || late {
                let text = format!(
                    "cancelled at {cancelled_at:?}, and wrote the tag {}:{} at {}",
                    write.repository, write.reference, write.received_at
                );
                findings.add("I6", id, text);
            }
        }
    }
    for write in &facts.writes {
        let Some(repaired) = write.writer.as_ref().and_then(|writer| writer.repairs.as_deref())
        else {
            continue;
        };
        if facts.builds.get(repaired).is_some_and(|build| build.phase() == "cancelled") {
            let text = format!(
                "it was cancelled, and its image was put under {}:{} at {}",
                write.repository, write.reference, write.received_at
            );
            findings.add("I6", repaired, text);
        }
    }
}

/// A build whose message was acknowledged does not come back, and has one image.
pub(super) fn duplicates(facts: &Facts<'_>, findings: &mut Findings) {
    let mut lines: Vec<_> = facts
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::WorkerLine { worker, time, message, build } => {
                Some((*time, worker, message.as_str(), build.as_str()))
            }
            _ => None,
        })
        .collect();
    lines.sort();
    let mut settled = std::collections::BTreeMap::new();
    for (time, worker, message, build) in lines {
        if message == "settled" {
            settled.insert(build, (time, worker));
            continue;
        }
        let Some((settled_at, by)) = settled.get(build) else { continue };
        // It was on its way before the acknowledgement arrived. 2.9.10 sometimes delivers a message
        // to two workers at once, also long after its start. The claim decides which of them has
        // the build.
        if settled_at.checked_add(UNDER_WAY).is_ok_and(|later| time < later) {
            continue;
        }
        // A killed server may have forgotten the acknowledgement, or, within a lease of its start,
        // have delivered the message to two workers. And a worker that was stopped only now reads a
        // message that was delivered before another worker had it.
        let leased_at = settled_at.checked_sub(LEASE).unwrap_or(*settled_at);
        let excused = facts.faults.iter().any(|span| {
            let stale = worker != *by && span.hits_worker(worker);
            (span.hits_nats() && span.overlaps(leased_at, time))
                || (stale && span.overlaps(*settled_at, time))
        });
        if !excused {
            let text = format!(
                "settled by {by} at {settled_at}, and delivered again to {worker} at {time}"
            );
            findings.add_as(Class::Duplicated, "twice", build, text);
        }
    }
    for (id, build) in &facts.builds {
        let mut digests: BTreeSet<&str> =
            build.own_writes().map(|write| write.digest.as_str()).collect();
        digests.extend(build.digest());
        for event in build.events("published") {
            digests.extend(event.data["digest"].as_str());
        }
        if digests.len() > 1 {
            let text = format!("it has several images: {digests:?}");
            findings.add_as(Class::Duplicated, "twice", id, text);
        }
    }
}
