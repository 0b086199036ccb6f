// SPDX-License-Identifier: Apache-2.0

//! A history in which nothing is wrong, and for each invariant one that breaks it.

mod story;

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::chaos::history::{ChunkSeen, RecordSeen, What};
use crate::chaos::plan::{Fault, Target};
use story::{Story, at};

const TAG: &str = "127.0.0.1:5000/chaos/app:1";

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
fn i8_the_end_of_a_log_that_was_passed_over_is_no_hole_if_it_was_kept() {
    let kept = |whole: &str| {
        let mut story = one();
        story
            .entries
            .retain(|entry| !matches!(&entry.what, What::Chunk(chunk) if chunk.number == 1));
        story.change(|what| match what {
            What::Chunk(chunk) => {
                chunk.text = "(build a, epoch 1)\n".to_owned();
                true
            }
            _ => false,
        });
        story.change(|what| match what {
            What::HttpLog { text, .. } => {
                *text = Some(whole.to_owned());
                true
            }
            _ => false,
        });
        story.found()
    };
    assert_eq!(kept("(build a, epoch 1)\ntwo\n"), []);
    assert_eq!(kept("(build a, epoch 1)\n"), [(Class::Other, "I8")]);
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
fn a_message_that_was_under_way_when_its_build_was_settled_is_not_done_twice() {
    let found = |later: Duration| {
        let mut story = one();
        let again = at(7).checked_add(later).expect("a time");
        let lines = [
            ("worker-2", at(7), "settled"),
            ("worker-1", again, "a finished build was delivered again"),
        ];
        for (worker, time, message) in lines {
            let (worker, message) = (worker.to_owned(), message.to_owned());
            story.note(60, What::WorkerLine { worker, time, message, build: "a".to_owned() });
        }
        story.found()
    };
    assert_eq!(found(Duration::from_millis(12)), []);
    assert_eq!(found(Duration::from_millis(499)), []);
    assert_eq!(found(Duration::from_millis(500)), [(Class::Duplicated, "twice")]);
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
