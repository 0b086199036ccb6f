// SPDX-License-Identifier: Apache-2.0

//! A history in which nothing is wrong, and for each invariant one that breaks it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slipway_proto::Timestamp;

use super::*;
use crate::chaos::history::{Ask, ChunkSeen, EventSeen, RecordSeen, What, Write, Writer};
use crate::chaos::plan::{Fault, Target};

const TAG: &str = "127.0.0.1:5000/chaos/app:1";

/// A time in seconds from the start of the story.
fn at(seconds: u32) -> Timestamp {
    format!("2026-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60).parse().expect("a time")
}

/// Writes histories by hand.
#[derive(Default)]
struct Story {
    entries: Vec<Entry>,
    sequence: u64,
    calls: u64,
}

impl Story {
    fn note(&mut self, time: u32, what: What) {
        self.entries.push(Entry { at: at(time), what });
    }

    fn submit(&mut self, time: u32, build: &str, key: &str, request: Value, status: u16) {
        self.calls += 1;
        let call = self.calls;
        let ask = Ask::Submit { project: "red".to_owned(), key: key.to_owned(), request };
        self.note(time, What::Asked { call, dispatcher: 0, ask });
        let body = json!({"id": build});
        self.note(time, What::Answered { call, status: Some(status), body });
    }

    fn event(&mut self, time: u32, build: &str, kind: &str, part: &str, data: &Value) {
        self.sequence += 1;
        let event = json!({
            "id": format!("{build}:{part}:build.{kind}"), "subject": build,
            "type": format!("dev.slipway.build.{kind}.v1"), "time": at(time), "data": data,
        });
        let sequence = self.sequence;
        self.note(time, What::Event(EventSeen { sequence, stored_at: at(time), event }));
    }

    fn started(&mut self, time: u32, build: &str, epoch: u64, attempt: u64, worker: &str) {
        let data = json!({"epoch": epoch, "attempt": attempt, "worker": worker});
        self.event(time, build, "started", &epoch.to_string(), &data);
    }

    fn record(&mut self, time: u32, build: &str, order: u64, epoch: u64, phase: &Value) {
        self.sequence += 1;
        let finished = super::facts::is_end(phase["phase"].as_str().unwrap_or_default());
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

    fn write(&mut self, time: u32, reference: &str, digest: &str, writer: Option<(&str, u64)>) {
        let writer =
            writer.map(|(build, epoch)| Writer { build: build.to_owned(), epoch, repairs: None });
        self.note(
            time,
            What::Wrote(Write {
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

    fn chunk(&mut self, build: &str, epoch: u64, number: u64, text: &str, digest: Option<String>) {
        self.sequence += 1;
        let (sequence, build, text) = (self.sequence, build.to_owned(), text.to_owned());
        let stored_at = at(5);
        self.note(
            5,
            What::Chunk(ChunkSeen { sequence, stored_at, build, epoch, number, digest, text }),
        );
    }

    /// A build that is accepted at a time and has succeeded five seconds later.
    fn build(&mut self, time: u32, build: &str, order: u64) {
        self.submit(time, build, build, json!({"artifact": build}), 202);
        self.event(time, build, "queued", "0", &json!({"order": order, "replays": 0}));
        self.record(time, build, order, 0, &json!({"phase": "queued"}));
        self.started(time + 1, build, 1, 1, "worker-1");
        self.record(time + 1, build, order, 1, &json!({"phase": "running"}));
        self.log(build, 1);
        self.end(time + 5, build, order, 1);
    }

    fn log(&mut self, build: &str, epoch: u64) {
        self.chunk(build, epoch, 0, "one\n", None);
        let digest = format!("sha256:{:x}", Sha256::digest("one\ntwo\n"));
        self.chunk(build, epoch, 1, "two\n", Some(digest));
    }

    /// The end of a build that succeeds.
    fn end(&mut self, time: u32, build: &str, order: u64, epoch: u64) {
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

    fn fault(&mut self, from: u32, to: u32, fault: Fault) {
        let number = self.entries.len();
        self.note(from, What::FaultBegun { number, fault });
        self.note(to, What::FaultEnded { number });
    }

    fn at_rest(mut self, tag: &str) -> Self {
        let (reference, digest) = (TAG.to_owned(), Some(format!("sha256:{tag}")));
        self.note(60, What::Tag { reference, digest });
        let ack_pending = vec![("default-normal".to_owned(), 0)];
        self.note(60, What::Queue { messages: 0, ack_pending });
        self.note(60, What::Rested { in_time: true });
        self
    }

    /// Changes the last entry that a closure takes.
    fn change(&mut self, mut change: impl FnMut(&mut What) -> bool) {
        let changed = self.entries.iter_mut().rev().any(|entry| change(&mut entry.what));
        assert!(changed, "the story holds what is to be changed");
    }

    fn found(&self) -> Vec<(Class, &'static str)> {
        let found = check(&self.entries);
        found.iter().map(|violation| (violation.class, violation.invariant)).collect()
    }
}

fn kill_worker() -> Fault {
    Fault::Kill { target: Target::Worker(0) }
}

fn one() -> Story {
    let mut story = Story::default();
    story.build(1, "a", 1);
    story.at_rest("a")
}

#[test]
fn a_history_in_which_all_is_well_has_no_violation() {
    assert_eq!(check(&one().entries), []);
    let mut story = Story::default();
    // Two builds of one tag, the first of which loses its worker and is built again.
    story.build(1, "a", 1);
    story.submit(2, "b", "b", json!({"artifact": "b"}), 202);
    story.submit(3, "b", "b", json!({"artifact": "b"}), 200);
    story.submit(3, "b", "b", json!({"artifact": "other"}), 409);
    story.event(2, "b", "queued", "0", &json!({"order": 2}));
    story.started(3, "b", 1, 1, "worker-1");
    story.chunk("b", 1, 0, "one\n", None);
    story.fault(4, 6, kill_worker());
    story.started(19, "b", 2, 2, "worker-2");
    story.log("b", 2);
    story.end(21, "b", 2, 2);
    assert_eq!(check(&story.at_rest("b").entries), []);
}

#[test]
fn i1_and_i2_an_accepted_build_without_an_end_or_a_record() {
    let mut story = one();
    story.submit(9, "lost", "lost", json!({}), 202);
    story.submit(10, "stuck", "stuck", json!({}), 202);
    story.event(10, "stuck", "queued", "0", &json!({}));
    story.record(10, "stuck", 3, 0, &json!({"phase": "queued"}));
    assert_eq!(story.found(), [(Class::Lost, "I2"), (Class::Stuck, "I1")]);
    assert!(check(&story.entries)[0].text.contains("middle"));
}

#[test]
fn i3_a_key_of_two_builds_or_two_requests() {
    let mut story = one();
    story.build(20, "b", 2);
    story.submit(30, "b", "a", json!({"artifact": "a"}), 200);
    story.submit(30, "b", "b", json!({"artifact": "a"}), 200);
    story.change(|what| match what {
        What::Tag { digest, .. } => {
            *digest = Some("sha256:b".to_owned());
            true
        }
        _ => false,
    });
    assert_eq!(story.found(), [(Class::Duplicated, "I3"), (Class::Other, "I3")]);
    let mut story = one();
    story.submit(30, "a", "a", json!({"artifact": "a"}), 409);
    assert_eq!(story.found(), [(Class::Other, "I3")]);
}

#[test]
fn i4_an_older_epoch_that_starts_or_writes_a_tag_late() {
    let mut story = Story::default();
    story.build(1, "a", 1);
    story.fault(2, 3, kill_worker());
    let takeover = |story: &mut Story| {
        story.started(4, "a", 2, 2, "worker-2");
        story.record(4, "a", 1, 2, &json!({"phase": "running"}));
        story.record(5, "a", 1, 2, &json!({"phase": "succeeded", "image": {"digest": "sha256:a"}}));
    };
    // The write of epoch 1 is received at second 5, after epoch 2 started.
    takeover(&mut story);
    let found = story.at_rest("a").found();
    assert!(found.contains(&(Class::Other, "I4")), "{found:?}");
    let mut story = one();
    story.started(7, "a", 1, 1, "worker-1");
    story.sequence += 1;
    story.event(8, "a", "started", "0", &json!({"epoch": 0, "attempt": 1}));
    assert!(story.found().contains(&(Class::Other, "I4")));
    let mut story = one();
    story.record(9, "a", 1, 0, &json!({"phase": "succeeded", "image": {"digest": "sha256:a"}}));
    assert!(story.found().contains(&(Class::Other, "I4")));
}

#[test]
fn i5_a_finished_build_that_goes_on() {
    let mut story = one();
    story.record(9, "a", 1, 1, &json!({"phase": "running"}));
    story.record(10, "a", 1, 1, &json!({"phase": "succeeded", "image": {"digest": "sha256:a"}}));
    assert_eq!(story.found(), [(Class::Other, "I5")]);
    let mut story = one();
    story.started(9, "a", 2, 1, "worker-1");
    assert_eq!(story.found(), [(Class::Other, "I5")]);
}

fn cancelled(epoch: u64, write_at: u32) -> Story {
    let mut story = Story::default();
    story.submit(1, "a", "a", json!({}), 202);
    story.event(1, "a", "queued", "0", &json!({}));
    if epoch > 0 {
        story.started(2, "a", epoch, 1, "worker-1");
    }
    story.record(5, "a", 1, epoch, &json!({"phase": "cancelled", "message": "no"}));
    story.event(5, "a", "finished", "end", &json!({"epoch": epoch, "outcome": "cancelled"}));
    story.write(write_at, "1", "sha256:a", Some(("a", 1)));
    story
}

#[test]
fn i6_a_cancelled_build_that_writes_a_tag() {
    assert_eq!(cancelled(0, 3).found(), [(Class::Other, "I6")]);
    assert_eq!(cancelled(1, 6).found(), [(Class::Other, "I6")]);
    assert_eq!(cancelled(1, 4).found(), []);
}

#[test]
fn i7_events_out_of_order_or_missing_or_twice() {
    let without = |kind: &str| {
        let mut story = one();
        let word = format!("build.{kind}.v1");
        story.entries.retain(|entry| match &entry.what {
            What::Event(seen) => !seen.event["type"].to_string().contains(&word),
            _ => true,
        });
        story.found()
    };
    assert_eq!(without("queued"), [(Class::Other, "I7")]);
    assert_eq!(without("started"), [(Class::Other, "I7")]);
    assert_eq!(without("finished"), [(Class::Stuck, "I7")]);
    let mut story = one();
    story.event(
        20,
        "a",
        "finished",
        "end:2",
        &json!({"epoch": 1, "outcome": "succeeded", "published": {"digest": "sha256:a"}}),
    );
    let found = story.found();
    assert!(found.contains(&(Class::Duplicated, "I7")), "{found:?}");
    assert!(found.contains(&(Class::Duplicated, "I4")), "{found:?}");
}

#[test]
fn i8_a_log_with_a_hole_or_other_bytes() {
    let changed = |number: u64, change: fn(&mut ChunkSeen)| {
        let mut story = one();
        story.change(|what| match what {
            What::Chunk(chunk) if chunk.number == number => {
                change(chunk);
                true
            }
            _ => false,
        });
        story.found()
    };
    let broken = [(Class::Other, "I8")];
    assert_eq!(changed(1, |chunk| chunk.number = 2), broken);
    assert_eq!(changed(1, |chunk| chunk.digest = None), broken);
    assert_eq!(changed(0, |chunk| chunk.text = "ONE\n".to_owned())[0], broken[0]);
    let mut story = one();
    story.change(|what| match what {
        What::HttpLog { text, .. } => {
            *text = Some("two\none\n".to_owned());
            true
        }
        _ => false,
    });
    assert_eq!(story.found(), broken);
}

#[test]
fn i10_something_left_over() {
    let mut story = one();
    let ack_pending = vec![("default-normal".to_owned(), 1)];
    story.note(61, What::Queue { messages: 0, ack_pending });
    assert_eq!(story.found(), [(Class::Stuck, "I10")]);
    let mut story = one();
    story.event(10, "never", "queued", "0", &json!({}));
    story.record(10, "never", 3, 0, &json!({"phase": "queued"}));
    assert_eq!(story.found(), [(Class::Stuck, "I10")]);
}

#[test]
fn i11_an_image_that_is_not_there() {
    let with = |seen: What| {
        let mut story = one();
        story.entries.retain(|entry| !matches!(entry.what, What::Manifest { .. }));
        story.note(60, seen);
        story.found()
    };
    let manifest = |present: bool, missing: &[&str]| What::Manifest {
        repository: "chaos/app".to_owned(),
        digest: "sha256:a".to_owned(),
        present,
        missing: missing.iter().map(|blob| (*blob).to_owned()).collect(),
    };
    assert_eq!(with(manifest(true, &[])), []);
    assert_eq!(with(manifest(true, &["sha256:layer"])), [(Class::Other, "I11")]);
    assert_eq!(with(manifest(false, &[])), [(Class::Other, "I11")]);
}

#[test]
fn i12_an_attempt_charged_for_nothing() {
    let charged = |fault: Option<Fault>| {
        let mut story = Story::default();
        story.submit(1, "a", "a", json!({"artifact": "a"}), 202);
        story.event(1, "a", "queued", "0", &json!({}));
        story.started(2, "a", 1, 1, "worker-1");
        if let Some(fault) = fault {
            story.fault(3, 5, fault);
        }
        story.started(19, "a", 2, 2, "worker-2");
        story.log("a", 2);
        story.end(22, "a", 1, 2);
        story.at_rest("a").found()
    };
    assert_eq!(charged(Some(kill_worker())), []);
    assert_eq!(charged(None), [(Class::Other, "I12")]);
    assert_eq!(charged(Some(Fault::KillAllNodes)), [(Class::Other, "I12")]);
    let another = Fault::Kill { target: Target::Worker(1) };
    assert_eq!(charged(Some(another)), [(Class::Other, "I12")]);
}

#[test]
fn i12_a_failure_for_nothing() {
    let mut story = Story::default();
    story.submit(1, "a", "a", json!({}), 202);
    story.event(1, "a", "queued", "0", &json!({}));
    story.started(2, "a", 1, 1, "worker-1");
    story.record(5, "a", 1, 1, &json!({"phase": "failed"}));
    let failure = json!({"reason": "PushImageFailed"});
    story.event(5, "a", "finished", "end", &json!({"outcome": "failed", "failure": failure}));
    assert_eq!(story.found(), [(Class::Other, "I12")]);
    let how = "server_error".to_owned();
    story.fault(3, 6, Fault::Misbehave { how, percent: 50 });
    assert_eq!(story.found(), []);
}

#[test]
fn i13_a_process_that_grows() {
    let mut story = one();
    let process = "slipway-worker (7)".to_owned();
    story.note(9, What::Usage { process, resident: 500 << 20, files: 10 });
    assert_eq!(story.found(), [(Class::Other, "I13")]);
}

#[test]
fn a_process_that_panics_is_found() {
    let mut story = one();
    let (process, how) = ("worker-1".to_owned(), "exit status: 101".to_owned());
    story.note(9, What::Exited { process, how });
    assert_eq!(story.found(), [(Class::Other, "crash")]);
}

#[test]
fn a_settled_build_that_comes_back_is_done_twice_unless_a_fault_explains_it() {
    let line = |story: &mut Story, time: u32, message: &str| {
        let worker = if message == "settled" { "worker-2" } else { "worker-1" };
        let (worker, build) = (worker.to_owned(), "a".to_owned());
        let message = message.to_owned();
        story.note(60, What::WorkerLine { worker, time: at(time), message, build });
    };
    let mut story = one();
    line(&mut story, 30, "a finished build was delivered again");
    line(&mut story, 7, "settled");
    assert_eq!(story.found(), [(Class::Duplicated, "twice")]);
    for fault in [Fault::KillAllNodes, Fault::Stop { target: Target::Worker(0) }] {
        let mut story = one();
        line(&mut story, 7, "settled");
        line(&mut story, 30, "a finished build was delivered again");
        story.fault(10, 11, fault);
        assert_eq!(story.found(), []);
    }
}

#[test]
fn two_images_of_one_build_are_done_twice() {
    let mut story = one();
    story.write(4, "1", "sha256:other", Some(("a", 1)));
    assert_eq!(story.found(), [(Class::Duplicated, "twice")]);
}

#[test]
fn a_tag_that_does_not_end_at_its_last_build_is_wrong() {
    let both = |tag: &str| {
        let mut story = Story::default();
        story.build(1, "a", 1);
        story.build(1, "b", 2);
        story.at_rest(tag).found()
    };
    assert_eq!(both("b"), []);
    assert_eq!(both("a"), [(Class::WrongTag, "tag")]);
    assert_eq!(both("strange"), [(Class::WrongTag, "tag")]);
}

#[test]
fn a_tag_may_end_at_a_newer_build_that_failed_after_it_had_written_it() {
    let mut story = Story::default();
    story.build(1, "a", 1);
    story.fault(1, 9, kill_worker());
    story.submit(2, "b", "b", json!({}), 202);
    story.event(2, "b", "queued", "0", &json!({}));
    story.started(3, "b", 1, 1, "worker-1");
    story.write(4, "1", "sha256:b", Some(("b", 1)));
    story.record(8, "b", 2, 1, &json!({"phase": "failed"}));
    story.event(8, "b", "finished", "end", &json!({"outcome": "failed"}));
    assert_eq!(story.at_rest("b").found(), []);
}

#[test]
fn an_older_build_says_which_newer_one_has_its_tag() {
    let older = |by: Option<&str>, writes: bool| {
        let mut story = Story::default();
        story.build(1, "b", 2);
        story.build(20, "a", 1);
        let taken = by.map(|by| json!({"reference": TAG, "by": by}));
        story.change(|what| match what {
            What::Record(RecordSeen { build, record: Some(record), last: true, .. })
                if build == "a" =>
            {
                record["state"]["phase"]["image"]["superseded"] = taken.iter().cloned().collect();
                true
            }
            _ => false,
        });
        story.entries.retain(|entry| match &entry.what {
            What::Wrote(write) => {
                writes || write.writer.as_ref().is_none_or(|writer| writer.build == "b")
            }
            _ => true,
        });
        story.at_rest("b").found()
    };
    assert_eq!(older(Some("b"), false), []);
    assert_eq!(older(None, true), [(Class::WrongTag, "tag")]);
    assert_eq!(older(None, false), [(Class::WrongTag, "tag")]);
    assert_eq!(older(Some("nobody"), false), [(Class::WrongTag, "tag")]);
}

#[test]
fn a_view_that_differs_from_the_record_is_found() {
    let mut story = one();
    let view = json!({"state": "running"});
    story.note(61, What::View { build: "a".to_owned(), status: Some(200), view });
    assert_eq!(story.found(), [(Class::Other, "view")]);
}
