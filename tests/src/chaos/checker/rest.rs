// SPDX-License-Identifier: Apache-2.0

//! I10 and I13: at rest nothing is left, and no process grows.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::{Class, Findings};
use crate::chaos::history::What;

/// The largest resident memory of a process.
const RESIDENT: u64 = 400 << 20;
const FILES: u64 = 900;

/// I10: the queue is empty, and no record is unfinished.
pub(super) fn queue(facts: &Facts<'_>, findings: &mut Findings) {
    for entry in facts.entries {
        let What::Queue { messages, ack_pending } = &entry.what else { continue };
        let pending: Vec<_> = ack_pending.iter().filter(|(_, count)| *count > 0).collect();
        if *messages > 0 || !pending.is_empty() {
            let text =
                format!("{messages} messages are left in BUILDS, {pending:?} unacknowledged");
            findings.add_general(Class::Stuck, "I10", text);
        }
    }
    for (id, build) in &facts.builds {
        let unfinished = build.record().is_some() && !build.is_finished();
        // I1 counts the promised ones.
        if unfinished && build.accepted.is_none() {
            let text = format!("never promised, and still {} at the end", build.phase());
            findings.add_as(Class::Stuck, "I10", id, text);
        }
    }
    let has_rested = facts.entries.iter().any(|entry| matches!(entry.what, What::Rested { .. }));
    if has_rested && !facts.rested && findings.violations.is_empty() {
        let text = "the system did not come to rest in time".to_owned();
        findings.add_general(Class::Stuck, "I10", text);
    }
}

/// I13: memory and open files stay below a limit.
pub(super) fn usage(facts: &Facts<'_>, findings: &mut Findings) {
    let mut most: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for entry in facts.entries {
        if let What::Usage { process, resident, files } = &entry.what {
            let peak = most.entry(process).or_default();
            *peak = (peak.0.max(*resident), peak.1.max(*files));
        }
    }
    for (process, (resident, files)) in most {
        if resident > RESIDENT || files > FILES {
            let text = format!("{process} took {} MiB and {files} files", resident >> 20);
            findings.add_general(Class::Other, "I13", text);
        }
    }
}

/// No process panics, or dies of a signal that the suite did not send.
pub(super) fn exits(facts: &Facts<'_>, findings: &mut Findings) {
    for (at, process, how) in facts.exits() {
        if how.contains("signal") || how.contains("101") {
            let text = format!("{process} ended by itself at {at}: {how}");
            findings.add_general(Class::Other, "crash", text);
        }
    }
}
