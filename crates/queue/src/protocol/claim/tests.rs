// SPDX-License-Identifier: Apache-2.0

use slipway_proto::BuildRequest;

use super::*;
use crate::testing;

fn worker(name: &str) -> WorkerId {
    name.parse().expect("a name")
}

fn applied(build: &Build, changes: &[Change]) -> Build {
    changes.iter().fold(build.clone(), |build, change| {
        build.apply(change, build.accepted_at).expect("it applies")
    })
}

fn held_by(name: &str) -> Build {
    applied(&testing::build(), &[Change::Claim { epoch: 1, worker: worker(name) }])
}

fn later(build: &Build, seconds: u64) -> Timestamp {
    build.accepted_at + Duration::from_secs(seconds)
}

/// What `w1` decides about a message that it was delivered just after the build was accepted.
fn decided(build: &Build, is_repeated: bool, holder_works: Option<bool>) -> Step {
    let me = worker("w1");
    decide(&Known {
        build,
        worker: &me,
        is_repeated,
        holder_works,
        after_outage: false,
        now: later(build, 1),
    })
}

fn written(step: Step) -> Build {
    let Step::Write(next) = step else { panic!("{step:?}") };
    *next
}

#[test]
fn a_waiting_build_is_claimed_under_the_next_epoch() {
    let claimed = written(decided(&testing::build(), false, None));
    assert_eq!((claimed.state.epoch, claimed.state.attempt), (1, 1));
    assert_eq!(claimed.state.holder(), Some(&worker("w1")));
}

#[test]
fn a_finished_build_is_settled_however_often_its_request_is_delivered() {
    let cancelled = applied(&testing::build(), &[Change::Cancel { message: "no more".into() }]);
    assert_eq!(decided(&cancelled, false, None), Step::Settle);
    assert_eq!(decided(&cancelled, true, None), Step::Settle);
}

#[test]
fn a_second_copy_of_a_message_waits_one_lease() {
    let held = held_by("w2");
    assert_eq!(decided(&held, false, None), Step::GiveBack(topology::ACK_WAIT));
}

#[test]
fn a_build_is_taken_over_from_a_worker_that_does_not_say_it_works_on_it() {
    let held = held_by("w2");
    assert_eq!(decided(&held, true, None), Step::AskHolder(worker("w2")));
    assert_eq!(decided(&held, true, Some(true)), Step::GiveBack(ANNOUNCED_WITHIN));
    let claimed = written(decided(&held, true, Some(false)));
    assert_eq!((claimed.state.epoch, claimed.state.attempt), (2, 2), "the lost attempt counts");
    let own = written(decided(&held_by("w1"), true, None));
    assert_eq!(own.state.epoch, 2, "nobody is asked about an earlier life of this worker");
}

#[test]
fn an_attempt_that_an_outage_took_is_not_charged() {
    let held = held_by("w2");
    let me = worker("w1");
    let known = Known {
        build: &held,
        worker: &me,
        is_repeated: true,
        holder_works: Some(false),
        after_outage: true,
        now: later(&held, 20),
    };
    let claimed = written(decide(&known));
    assert_eq!((claimed.state.epoch, claimed.state.attempt), (2, 1));
}

#[test]
fn a_retry_waits_for_its_time() {
    let held = held_by("w2");
    let failure = Failure::new(Reason::PushImageFailed, "reset");
    let retry = |not_before| Change::Retry { epoch: 1, not_before, failure: failure.clone() };
    let early = applied(&held, &[retry(later(&held, 5))]);
    assert_eq!(decided(&early, true, None), Step::GiveBack(Duration::from_secs(4)));
    let due = applied(&held, &[retry(later(&held, 0))]);
    assert_eq!(written(decided(&due, true, None)).state.epoch, 2);
}

#[test]
fn a_build_whose_attempts_are_used_up_becomes_a_dead_letter() {
    let mut held = held_by("w2");
    held.request.max_attempts = 1;
    let ended = written(decided(&held, true, Some(false)));
    assert!(ended.is_dead());
    assert_eq!(ended.failure().map(|failure| failure.reason), Some(Reason::AttemptsExhausted));
}

#[test]
fn a_build_that_waited_too_long_ends_instead_of_being_claimed() {
    let mut build = testing::build();
    build.request.queue_timeout_s = 1;
    let ended = written(decided(&build, false, None));
    assert_eq!(ended.failure().map(|failure| failure.reason), Some(Reason::QueueTimeExceeded));
    assert!(!ended.is_dead());
}

fn delivered(build: &Build) -> Delivered {
    let (request, submission): (BuildRequest, _) = (build.request.clone(), build.submission);
    Delivered { request, submission, accepted_at: build.accepted_at, order: build.order }
}

#[test]
fn a_first_delivery_is_claimed_without_reading_the_record() {
    let build = testing::build();
    let record = untouched(&delivered(&build), false).expect("the message says it all");
    assert_eq!((record.build, record.revision), (build.clone(), build.order));
    assert!(untouched(&delivered(&build), true).is_none(), "it was claimed, most likely");
}

#[test]
fn a_young_build_is_queued_before_it_is_started_whoever_says_so() {
    let build = testing::build();
    let message = delivered(&build);
    assert!(announces_queued(&message, false, later(&build, 59)));
    assert!(!announces_queued(&message, false, later(&build, 60)), "it is stored by now");
    assert!(!announces_queued(&message, true, later(&build, 1)), "the record decides");
    assert!(may_be_unannounced(&build, later(&build, 3600)), "nobody has claimed it");
    let held = held_by("w2");
    assert!(may_be_unannounced(&held, later(&held, 99)), "the server may have died over it");
    assert!(!may_be_unannounced(&held, later(&held, 100)), "a copy would not be noticed");
    let back = Change::GiveBack { epoch: 1, not_before: None, failure: None };
    let again = applied(&held, &[back, Change::Claim { epoch: 2, worker: worker("w3") }]);
    assert!(!may_be_unannounced(&again, later(&held, 1)));
}
