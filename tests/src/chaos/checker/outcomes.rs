// SPDX-License-Identifier: Apache-2.0

//! I1, I2, I3, I5 and I7: every promised build has exactly one end, and its events agree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::facts::{BuildFacts, Facts, is_end, phase};
use super::{Class, Findings};

/// I1 and I2: every build that was answered 202 has exactly one end.
pub(super) fn one_end(facts: &Facts<'_>, findings: &mut Findings) {
    let mut promised: Vec<_> = facts.accepted().collect();
    promised.sort_by_key(|(_, build)| build.accepted);
    let is_kept = |build: &BuildFacts<'_>| build.record().is_some();
    let first = promised.iter().position(|(_, build)| is_kept(build));
    let last = promised.iter().rposition(|(_, build)| is_kept(build));
    for (place, (id, build)) in promised.iter().enumerate() {
        let accepted = build.accepted.expect("it was accepted");
        if !is_kept(build) {
            let part = match (first, last) {
                (Some(first), _) if place < first => "prefix",
                (_, Some(last)) if place > last => "postfix",
                (Some(_), _) => "middle",
                (None, _) => "all",
            };
            let text = format!("accepted at {accepted} and lost ({part} of what was accepted)");
            findings.add_as(Class::Lost, "I2", id, text);
        } else if !build.is_finished() {
            let text = format!("accepted at {accepted} and still {} at the end", build.phase());
            findings.add_as(Class::Stuck, "I1", id, text);
        }
    }
}

/// I3: one key, one build; and no second request under it.
pub(super) fn keys(facts: &Facts<'_>, findings: &mut Findings) {
    let mut by_key: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
    for submission in &facts.submissions {
        by_key.entry((submission.project, submission.key)).or_default().push(submission);
    }
    for ((_, key), submissions) in by_key {
        let accepted = || submissions.iter().filter(|submission| submission.is_accepted());
        let builds: BTreeSet<_> = accepted().filter_map(|submission| submission.build).collect();
        if builds.len() > 1 {
            let text = format!("the key {key} was answered with several builds: {builds:?}");
            findings.add_general(Class::Duplicated, "I3", text);
        }
        let mut requests: Vec<&Value> = accepted().map(|submission| submission.request).collect();
        requests.dedup();
        if requests.len() > 1 {
            let text = format!("the key {key} was accepted for different requests");
            findings.add_general(Class::Other, "I3", text);
        }
        let original = submissions.first().map(|submission| submission.request);
        for refused in &submissions {
            if refused.status == Some(409) && Some(refused.request) == original {
                let text = format!(
                    "the key {key}, asked at {}, was refused to the request that it came with",
                    refused.at
                );
                findings.add_general(Class::Other, "I3", text);
            }
        }
    }
}

/// I5: an end stays, unless the build is replayed.
pub(super) fn ends_stay(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        let documents =
            build.records.iter().filter_map(|seen| Some((*seen, seen.record.as_ref()?)));
        let mut before: Option<&Value> = None;
        for (seen, record) in documents {
            let ended = before.filter(|before| is_end(phase(before)));
            if let Some(ended) = ended
                && phase(ended) != phase(record)
                && replays(record) <= replays(ended)
            {
                let text = format!(
                    "went from {} to {} at revision {} ({})",
                    phase(ended),
                    phase(record),
                    seen.revision,
                    seen.stored_at
                );
                findings.add("I5", id, text);
            }
            before = Some(record);
        }
        let mut finished = false;
        for event in &build.events {
            match event.kind {
                "queued" if event.number("replays") > 0 => finished = false,
                "finished" => finished = true,
                "started" if finished => {
                    let text = format!(
                        "started (epoch {}, event {}) after it had finished",
                        event.number("epoch"),
                        event.sequence
                    );
                    findings.add("I5", id, text);
                }
                _ => {}
            }
        }
    }
}

fn replays(record: &Value) -> u64 {
    record["replays"].as_u64().unwrap_or(0)
}

/// I7: queued before started before finished, and finished exactly once.
pub(super) fn order_of_events(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in &facts.builds {
        let first = |kind: &str| build.events(kind).first().map(|event| event.sequence);
        let (queued, started, finished) = (first("queued"), first("started"), first("finished"));
        if let Some(later) = started.or(finished)
            && queued.is_none_or(|queued| queued > later)
        {
            let text = format!(
                "its queued event ({queued:?}) is not before those that follow it ({later})"
            );
            findings.add("I7", id, text);
        }
        if let (Some(started), Some(finished)) = (started, finished)
            && started > finished
        {
            let text = format!("started in event {started}, after it finished in {finished}");
            findings.add("I7", id, text);
        }
        if build.is_finished() {
            one_finished(id, build, findings);
        } else if let Some(finished) = finished {
            let text =
                format!("event {finished} says it finished, its record says {}", build.phase());
            findings.add("I7", id, text);
        }
    }
}

fn one_finished(id: &str, build: &BuildFacts<'_>, findings: &mut Findings) {
    let finished = build.events("finished");
    let lives = 1 + build.record().map_or(0, replays);
    let count = u64::try_from(finished.len()).unwrap_or(u64::MAX);
    let class = match count {
        0 => Class::Stuck,
        _ => Class::Duplicated,
    };
    if count != lives {
        let seen: Vec<_> = finished.iter().map(|event| (event.sequence, event.id)).collect();
        let text = format!("{count} finished events in {lives} lives: {seen:?}");
        findings.add_as(class, "I7", id, text);
    }
    if let Some(last) = finished.last()
        && last.text("outcome") != build.phase()
    {
        let text =
            format!("its last event says {}, its record {}", last.text("outcome"), build.phase());
        findings.add("I7", id, text);
    }
    let epoch = build.record().map_or(0, super::facts::epoch);
    let was_started = matches!(build.phase(), "succeeded" | "failed") && epoch > 0;
    if was_started && build.events("started").is_empty() {
        findings.add("I7", id, format!("it {} without a started event", build.phase()));
    }
}

/// The API agrees with the record at the end.
pub(super) fn views(facts: &Facts<'_>, findings: &mut Findings) {
    for (id, build) in facts.accepted() {
        let Some((status, view)) = build.view else { continue };
        if build.record().is_none() {
            continue;
        }
        if status != Some(200) {
            findings.add("view", id, format!("the API answers {status:?}: {view}"));
        } else if view["state"].as_str() != Some(build.phase()) {
            let text =
                format!("the API shows {}, its record says {}", view["state"], build.phase());
            findings.add("view", id, text);
        }
    }
}
