// SPDX-License-Identifier: Apache-2.0

//! I8: a log holds everything that its attempts wrote, in order.

use sha2::{Digest as _, Sha256};

use super::Findings;
use super::facts::{BuildFacts, Facts};

/// How long after the start of an attempt a fault still explains that it has no end.
const ATTEMPT: std::time::Duration = std::time::Duration::from_secs(20);

/// The chunks of an attempt have no hole, and its last one names the digest of all.
pub(super) fn chunks(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        for (epoch, chunks) in &build.chunks {
            let numbers: Vec<u64> = chunks.iter().map(|chunk| chunk.number).collect();
            let told = chunks.iter().find_map(|chunk| chunk.digest.as_deref());
            if numbers.iter().zip(0..).any(|(number, place)| *number != place) {
                // A purge of another build's log makes consumers of nats-server 2.9.10 skip
                // messages, ours included. Then the archived log is read.
                let kept = kept(build, id, *epoch).unwrap_or_default();
                // The reader adds the outcome behind what a worker wrote that did not know it.
                let written = kept.trim_end().rsplit_once('\n').map_or("", |(written, _)| written);
                let digests = [digest_of(&kept), digest_of(&format!("{written}\n"))];
                if told.is_some_and(|told| digests.iter().any(|digest| digest == told)) {
                    continue;
                }
                let text = format!("the log of epoch {epoch} has a hole: chunks {numbers:?}");
                findings.add("I8", id, text);
                continue;
            }
            let Some(end) = chunks.iter().find(|chunk| chunk.digest.is_some()) else {
                // The same if the last messages were skipped: the archived log continues after
                // them.
                let seen: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
                let goes_on = kept(build, id, *epoch)
                    .is_some_and(|kept| kept.len() > seen.len() && kept.starts_with(&seen));
                if !goes_on && !is_explained(facts, build, *epoch) {
                    findings.add("I8", id, format!("the log of epoch {epoch} has no end"));
                }
                continue;
            };
            let text: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
            let digest = digest_of(&text);
            if end.digest.as_ref() != Some(&digest) {
                let text = format!(
                    "the log of epoch {epoch} has the digest {digest}, its worker says {:?}",
                    end.digest
                );
                findings.add("I8", id, text);
            }
        }
    }
}

fn digest_of(text: &str) -> String {
    format!("sha256:{:x}", Sha256::digest(text))
}

/// Returns an attempt's part of the API's log, from the line that names it to that of the next
/// attempt.
fn kept(build: &BuildFacts<'_>, id: &str, epoch: u64) -> Option<String> {
    let names = |line: &str, epoch: &str| line.contains(&format!("(build {id}, epoch {epoch}"));
    let mut text = String::new();
    let begin = build.log?.lines().skip_while(|line| !names(line, &format!("{epoch})")));
    for (place, line) in begin.enumerate() {
        if place > 0 && names(line, "") {
            break;
        }
        text.push_str(line);
        text.push('\n');
    }
    Some(text)
}

/// An attempt whose worker died has no end.
fn is_explained(facts: &Facts<'_>, build: &BuildFacts<'_>, epoch: u64) -> bool {
    let started = build.events("started");
    let Some(start) = started.iter().find(|event| event.number("epoch") == epoch) else {
        // It died before it could announce the start.
        return true;
    };
    let end = start.time.checked_add(ATTEMPT).unwrap_or(start.time);
    let worker = start.text("worker");
    let hit = |span: &super::facts::Span<'_>| span.hits_worker(worker) || span.hits_nats();
    facts.faults.iter().any(|span| hit(span) && span.overlaps(start.time, end))
        || facts.exits().any(|(at, process, _)| process == worker && at >= start.time && at <= end)
}

/// The API's log holds the text of the last attempt, in order.
pub(super) fn over_http(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        let Some(log) = build.log else { continue };
        let Some((epoch, chunks)) = build.chunks.last_key_value() else { continue };
        let text: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
        let mut lines = log.lines();
        for wanted in text.lines() {
            if !lines.any(|line| line == wanted) {
                let text = format!(
                    "the API's log lacks the line {wanted:?} of epoch {epoch}, or has it out of \
                    order"
                );
                findings.add("I8", id, text);
                break;
            }
        }
    }
}
