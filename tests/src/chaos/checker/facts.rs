// SPDX-License-Identifier: Apache-2.0

//! The history, grouped by build.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use slipway_proto::Timestamp;

use crate::chaos::history::{Ask, ChunkSeen, Entry, EventSeen, RecordSeen, What};
use crate::chaos::plan::{Fault, Target};
use crate::faulty_registry::ManifestWrite;

/// A parsed event.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    pub(crate) sequence: u64,
    pub(crate) id: &'a str,
    /// `queued`, `started`, `finished` and so on.
    pub(crate) kind: &'a str,
    pub(crate) time: Timestamp,
    pub(crate) data: &'a Value,
}

impl Event<'_> {
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.data[field].as_u64().unwrap_or(0)
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_default()
    }
}

/// Everything known about a build.
#[derive(Debug, Default)]
pub(crate) struct BuildFacts<'a> {
    /// When it was first answered with 202 or 200.
    pub(crate) accepted: Option<Timestamp>,
    /// By sequence.
    pub(crate) events: Vec<Event<'a>>,
    /// By revision.
    pub(crate) records: Vec<&'a RecordSeen>,
    /// By epoch and number.
    pub(crate) chunks: BTreeMap<u64, Vec<&'a ChunkSeen>>,
    /// The tags it wrote, repairs included.
    pub(crate) writes: Vec<&'a ManifestWrite>,
    pub(crate) log: Option<&'a str>,
    pub(crate) view: Option<(Option<u16>, &'a Value)>,
}

impl<'a> BuildFacts<'a> {
    /// Returns the record at the end.
    pub(crate) fn record(&self) -> Option<&'a Value> {
        self.records.last()?.record.as_ref()
    }

    /// Returns the phase of the build at the end.
    pub(crate) fn phase(&self) -> &'a str {
        self.record().map_or("", phase)
    }

    pub(crate) fn is_finished(&self) -> bool {
        is_end(self.phase())
    }

    /// Returns the events of one kind, each once.
    pub(crate) fn events(&self, kind: &str) -> Vec<&Event<'a>> {
        let mut seen = BTreeSet::new();
        self.events.iter().filter(|event| event.kind == kind && seen.insert(event.id)).collect()
    }

    /// Returns the build's place in the order of acceptance.
    pub(crate) fn order(&self) -> u64 {
        self.record().and_then(|record| record["order"].as_u64()).unwrap_or(0)
    }

    /// Returns the digest of the image that the record names.
    pub(crate) fn digest(&self) -> Option<&'a str> {
        self.record()?["state"]["phase"]["image"]["digest"].as_str()
    }

    /// Returns the requested references.
    pub(crate) fn references(&self) -> Vec<&'a str> {
        let list = self.record().and_then(|record| record["request"]["references"].as_array());
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        self.record().and_then(|record| time(&record["finished_at"]))
    }

    /// Returns the tags that the build wrote for itself.
    pub(crate) fn own_writes(&self) -> impl Iterator<Item = &'a ManifestWrite> {
        self.writes
            .iter()
            .copied()
            .filter(|write| write.writer.as_ref().is_some_and(|writer| writer.repairs.is_none()))
    }
}

pub(crate) fn phase(record: &Value) -> &str {
    record["state"]["phase"]["phase"].as_str().unwrap_or_default()
}

pub(crate) fn epoch(record: &Value) -> u64 {
    record["state"]["epoch"].as_u64().unwrap_or(0)
}

pub(crate) fn is_end(phase: &str) -> bool {
    matches!(phase, "succeeded" | "failed" | "cancelled")
}

pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// A submission with its answer.
#[derive(Debug)]
pub(crate) struct Submission<'a> {
    pub(crate) at: Timestamp,
    pub(crate) project: &'a str,
    pub(crate) key: &'a str,
    pub(crate) request: &'a Value,
    pub(crate) status: Option<u16>,
    pub(crate) build: Option<&'a str>,
}

impl Submission<'_> {
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.status, Some(200 | 202))
    }
}

/// A fault with its time.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) fault: &'a Fault,
    pub(crate) begun: Timestamp,
    pub(crate) ended: Timestamp,
}

impl Span<'_> {
    pub(crate) fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        self.begun <= to && from <= self.ended
    }

    /// Returns whether the fault can lose what NATS had in memory.
    pub(crate) fn hits_nats(&self) -> bool {
        matches!(
            self.fault,
            Fault::Kill { target: Target::Nats(_) }
                | Fault::Stop { target: Target::Nats(_) }
                | Fault::KillLeader
                | Fault::KillAllNodes
                | Fault::DiskFull
        )
    }

    /// Returns whether the fault can interrupt a worker.
    pub(crate) fn hits_worker(&self, worker: &str) -> bool {
        match self.fault {
            Fault::Kill { target }
            | Fault::Stop { target }
            | Fault::Partition { target }
            | Fault::Crash { target, .. }
            | Fault::Freeze { target, .. }
            | Fault::Strand { target } => target.to_string() == worker,
            _ => false,
        }
    }

    pub(crate) fn hits_registry(&self) -> bool {
        self.fault.is_about_failures()
            || matches!(
                self.fault,
                Fault::Misbehave { .. } | Fault::Kill { target: Target::Registry }
            )
    }
}

/// The grouped history.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) entries: &'a [Entry],
    pub(crate) builds: BTreeMap<&'a str, BuildFacts<'a>>,
    pub(crate) submissions: Vec<Submission<'a>>,
    pub(crate) faults: Vec<Span<'a>>,
    pub(crate) writes: Vec<&'a ManifestWrite>,
    pub(crate) rested: bool,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(entries: &'a [Entry]) -> Self {
        let mut facts = Self { entries, ..Self::default() };
        let mut answers = BTreeMap::new();
        for entry in entries {
            match &entry.what {
                What::Answered { call, status, body } => {
                    answers.insert(*call, (entry.at, *status, body));
                }
                What::Rested { in_time } => facts.rested = *in_time,
                What::Event(seen) => facts.add_event(seen),
                What::Record(seen) => facts.build(&seen.build).records.push(seen),
                What::Chunk(seen) => {
                    facts.build(&seen.build).chunks.entry(seen.epoch).or_default().push(seen);
                }
                What::Wrote(write) => {
                    facts.writes.push(write);
                    if let Some(writer) = &write.writer {
                        facts.build(&writer.build).writes.push(write);
                    }
                }
                What::HttpLog { build, text } => facts.build(build).log = text.as_deref(),
                What::View { build, status, view } => {
                    facts.build(build).view = Some((*status, view));
                }
                _ => {}
            }
        }
        facts.add_submissions(&answers);
        facts.add_faults();
        facts.put_in_order();
        facts
    }

    fn build(&mut self, build: &'a str) -> &mut BuildFacts<'a> {
        self.builds.entry(build).or_default()
    }

    fn add_event(&mut self, seen: &'a EventSeen) {
        let text = |name: &str| seen.event[name].as_str().unwrap_or_default();
        let kind = text("type").trim_end_matches(".v1").rsplit('.').next().unwrap_or_default();
        let Some(time) = time(&seen.event["time"]) else { return };
        self.build(text("subject")).events.push(Event {
            sequence: seen.sequence,
            id: text("id"),
            kind,
            time,
            data: &seen.event["data"],
        });
    }

    fn add_submissions(&mut self, answers: &BTreeMap<u64, (Timestamp, Option<u16>, &'a Value)>) {
        for entry in self.entries {
            let What::Asked { call, ask: Ask::Submit { project, key, request }, .. } = &entry.what
            else {
                continue;
            };
            let answer = answers.get(call);
            let status = answer.and_then(|(_, status, _)| *status);
            let build = answer.and_then(|(_, _, body)| body["id"].as_str());
            let submission = Submission { at: entry.at, project, key, request, status, build };
            if let (true, Some(build), Some((at, ..))) = (submission.is_accepted(), build, answer) {
                let accepted = &mut self.build(build).accepted;
                *accepted = Some(accepted.map_or(*at, |before| before.min(*at)));
            }
            self.submissions.push(submission);
        }
    }

    fn add_faults(&mut self) {
        let mut ends = BTreeMap::new();
        let last = self.entries.last().map_or(Timestamp::MAX, |entry| entry.at);
        for entry in self.entries {
            if let What::FaultEnded { number } = &entry.what {
                ends.insert(*number, entry.at);
            }
        }
        for entry in self.entries {
            if let What::FaultBegun { number, fault } = &entry.what {
                let ended = ends.get(number).copied().unwrap_or(last);
                self.faults.push(Span { fault, begun: entry.at, ended });
            }
        }
    }

    fn put_in_order(&mut self) {
        for build in self.builds.values_mut() {
            build.events.sort_by_key(|event| event.sequence);
            build.events.dedup_by_key(|event| event.sequence);
            build.records.sort_by_key(|record| (record.revision, record.last));
            build.records.dedup_by_key(|record| record.revision);
            for chunks in build.chunks.values_mut() {
                chunks.sort_by_key(|chunk| (chunk.number, chunk.sequence));
                chunks.dedup_by_key(|chunk| chunk.number);
            }
        }
    }

    /// Returns the promised builds.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (&'a str, &BuildFacts<'a>)> {
        let promised = |entry: &(&&'a str, &BuildFacts<'a>)| entry.1.accepted.is_some();
        self.builds.iter().filter(promised).map(|(id, build)| (*id, build))
    }

    /// Returns each process that ended by itself, with time and status.
    pub(crate) fn exits(&self) -> impl Iterator<Item = (Timestamp, &'a str, &'a str)> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Exited { process, how } => Some((entry.at, process.as_str(), how.as_str())),
            _ => None,
        })
    }
}
