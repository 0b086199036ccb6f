// SPDX-License-Identifier: Apache-2.0

//! Histories written by hand.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slipway_proto::Timestamp;

use super::TAG;
use crate::chaos::checker::{Class, check};
use crate::chaos::history::{Ask, ChunkSeen, Entry, EventSeen, RecordSeen, What};
use crate::chaos::plan::Fault;
use crate::faulty_registry::{ManifestWrite, TagWriter};

/// A time in seconds from the start of the story.
pub(super) fn at(seconds: u32) -> Timestamp {
    format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60).parse().expect("a time")
}

/// Writes histories by hand.
#[derive(Default)]
pub(super) struct Story {
    pub(super) entries: Vec<Entry>,
    pub(super) sequence: u64,
    calls: u64,
}

impl Story {
    pub(super) fn note(&mut self, time: u32, what: What) {
        self.entries.push(Entry { at: at(time), what });
    }

    pub(super) fn submit(
        &mut self,
        time: u32,
        build: &str,
        key: &str,
        request: Value,
        status: u16,
    ) {
        self.calls += 1;
        let call = self.calls;
        let ask = Ask::Submit { project: "red".to_owned(), key: key.to_owned(), request };
        self.note(time, What::Asked { call, dispatcher: 0, ask });
        let body = json!({"id": build});
        self.note(time, What::Answered { call, status: Some(status), body });
    }

    pub(super) fn event(&mut self, time: u32, build: &str, kind: &str, part: &str, data: &Value) {
        self.sequence += 1;
        let event = json!({
            "id": format!("{build}:{part}:build.{kind}"), "subject": build,
            "type": format!("dev.slipway.build.{kind}.v1"), "time": at(time), "data": data,
        });
        let sequence = self.sequence;
        self.note(time, What::Event(EventSeen { sequence, stored_at: at(time), event }));
    }

    pub(super) fn started(
        &mut self,
        time: u32,
        build: &str,
        epoch: u64,
        attempt: u64,
        worker: &str,
    ) {
        let data = json!({"epoch": epoch, "attempt": attempt, "worker": worker});
        self.event(time, build, "started", &epoch.to_string(), &data);
    }

    pub(super) fn record(&mut self, time: u32, build: &str, order: u64, epoch: u64, phase: &Value) {
        self.sequence += 1;
        let finished =
            crate::chaos::checker::facts::is_end(phase["phase"].as_str().unwrap_or_default());
        let record = json!({
            "request": {"project": "red", "references": [TAG]}, "order": order,
            "state": {"epoch": epoch, "attempt": 1, "phase": phase}, "replays": 0,
            "accepted_at": at(1), "finished_at": finished.then(|| at(time)),
        });
        self.note(
            time,
            What::Record(RecordSeen {
                revision: self.sequence,
                stored_at: at(time),
                build: build.to_owned(),
                record: Some(record),
                last: finished,
            }),
        );
    }

    pub(super) fn write(
        &mut self,
        time: u32,
        reference: &str,
        digest: &str,
        writer: Option<(&str, u64)>,
    ) {
        let writer = writer.map(|(build, epoch)| TagWriter {
            build: build.to_owned(),
            epoch,
            repairs: None,
        });
        self.note(
            time,
            What::Wrote(ManifestWrite {
                received_at: at(time),
                forwarded_at: Some(at(time)),
                answered_at: Some(at(time)),
                repository: "chaos/app".to_owned(),
                reference: reference.to_owned(),
                digest: digest.to_owned(),
                status: Some(201),
                writer,
            }),
        );
    }

    pub(super) fn chunk(
        &mut self,
        build: &str,
        epoch: u64,
        number: u64,
        text: &str,
        digest: Option<String>,
    ) {
        self.sequence += 1;
        let (sequence, build, text) = (self.sequence, build.to_owned(), text.to_owned());
        let stored_at = at(5);
        self.note(
            5,
            What::Chunk(ChunkSeen { sequence, stored_at, build, epoch, number, digest, text }),
        );
    }

    /// A build that is accepted at a time and succeeds within five seconds.
    pub(super) fn build(&mut self, time: u32, build: &str, order: u64) {
        self.submit(time, build, build, json!({"artifact": build}), 202);
        self.event(time, build, "queued", "0", &json!({"order": order, "replays": 0}));
        self.record(time, build, order, 0, &json!({"phase": "queued"}));
        self.started(time + 1, build, 1, 1, "worker-1");
        self.record(time + 1, build, order, 1, &json!({"phase": "running"}));
        self.log(build, 1);
        self.end(time + 5, build, order, 1);
    }

    pub(super) fn log(&mut self, build: &str, epoch: u64) {
        self.chunk(build, epoch, 0, "one\n", None);
        let digest = format!("sha256:{:x}", Sha256::digest("one\ntwo\n"));
        self.chunk(build, epoch, 1, "two\n", Some(digest));
    }

    /// The end of a build that succeeds.
    pub(super) fn end(&mut self, time: u32, build: &str, order: u64, epoch: u64) {
        let digest = format!("sha256:{build}");
        self.write(time - 1, &digest, &digest, None);
        self.write(time - 1, "1", &digest, Some((build, epoch)));
        let image = json!({"digest": digest, "superseded": []});
        self.record(time, build, order, epoch, &json!({"phase": "succeeded", "image": image}));
        let data = json!({"epoch": epoch, "outcome": "succeeded", "published": {"digest": digest}});
        self.event(time, build, "finished", "end", &data);
        let (repository, text) = ("chaos/app".to_owned(), Some("one\ntwo\n".to_owned()));
        self.note(60, What::Manifest { repository, digest, present: true, missing: vec![] });
        self.note(60, What::HttpLog { build: build.to_owned(), text });
        let view = json!({"state": "succeeded"});
        self.note(60, What::View { build: build.to_owned(), status: Some(200), view });
    }

    pub(super) fn fault(&mut self, from: u32, to: u32, fault: Fault) {
        let number = self.entries.len();
        self.note(from, What::FaultBegun { number, fault });
        self.note(to, What::FaultEnded { number });
    }

    pub(super) fn at_rest(mut self, tag: &str) -> Self {
        let (reference, digest) = (TAG.to_owned(), Some(format!("sha256:{tag}")));
        self.note(60, What::Tag { reference, digest });
        let ack_pending = vec![("default-normal".to_owned(), 0)];
        self.note(60, What::Queue { messages: 0, ack_pending });
        self.note(60, What::Rested { in_time: true });
        self
    }

    /// Changes the last entry that the closure accepts.
    pub(super) fn change(&mut self, mut change: impl FnMut(&mut What) -> bool) {
        let changed = self.entries.iter_mut().rev().any(|entry| change(&mut entry.what));
        assert!(changed, "the story holds what is to be changed");
    }

    pub(super) fn found(&self) -> Vec<(Class, &'static str)> {
        let found = check(&self.entries);
        found.iter().map(|violation| (violation.class, violation.invariant)).collect()
    }
}
