// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::testing;

fn claim(epoch: Epoch) -> Change {
    Change::Claim { epoch, worker: "w1".parse().expect("a name") }
}

fn applied(build: &Build, changes: &[Change]) -> Build {
    changes.iter().fold(build.clone(), |build, change| {
        build.apply(change, build.accepted_at).expect("it applies")
    })
}

fn running() -> Build {
    applied(&testing::build(), &[claim(1)])
}

fn reset() -> Failure {
    Failure::new(Reason::PushImageFailed, "reset")
}

fn failed(dead: bool) -> Change {
    Change::Fail { epoch: 1, failure: reset(), dead }
}

fn transient(charged: bool) -> AttemptFailure {
    AttemptFailure { failure: reset(), transient: true, charged, retry_after: None }
}

#[test]
fn a_transient_failure_is_tried_again_until_the_attempts_are_used_up() {
    let mut build = running();
    let (failure, retry_after) = (reset(), None);
    let retry = Verdict::Retry { failure: failure.clone(), charged: true, retry_after };
    assert_eq!(judge(&build, transient(true), build.accepted_at), retry);
    build.request.max_attempts = 1;
    let Verdict::Fail { failure: last, dead } = judge(&build, transient(true), build.accepted_at)
    else {
        panic!("it was the last")
    };
    assert!(dead, "its request is kept");
    assert_eq!(last.message, "reset (attempt 1 was the last)");
    let free = Verdict::Retry { failure, charged: false, retry_after };
    assert_eq!(judge(&build, transient(false), build.accepted_at), free, "no fault of the build");
}

#[test]
fn a_permanent_failure_is_no_dead_letter() {
    let permanent = AttemptFailure { transient: false, ..transient(true) };
    let fail = Verdict::Fail { failure: reset(), dead: false };
    let build = running();
    assert_eq!(judge(&build, permanent, build.accepted_at), fail);
}

#[test]
fn what_costs_no_attempt_ends_with_its_reason_when_the_time_to_wait_is_over() {
    let mut build = running();
    build.request.queue_timeout_s = 20;
    let after = |seconds| {
        let time = build.accepted_at.checked_add(Duration::from_secs(seconds));
        judge(&build, transient(false), time.expect("a time"))
    };
    assert!(matches!(after(19), Verdict::Retry { charged: false, .. }));
    let Verdict::Fail { failure, dead } = after(20) else { panic!("its time is over") };
    assert!(dead, "its request is kept");
    assert_eq!(failure.message, "reset (the build may wait 20 s, its queue_timeout_s)");
    let asks = |seconds| {
        let retry_after = Some(Duration::from_secs(seconds));
        let limited = AttemptFailure { retry_after, ..transient(false) };
        judge(&build, limited, build.accepted_at)
    };
    assert!(matches!(asks(20), Verdict::Retry { .. }));
    assert!(matches!(asks(21), Verdict::Fail { .. }), "it would be too late");
    let charged = judge(&build, transient(true), build.accepted_at);
    assert!(matches!(charged, Verdict::Retry { charged: true, .. }));
    let late = build.accepted_at.checked_add(Duration::from_secs(60)).expect("a time");
    let outage = AttemptFailure::unavailable("NATS is away".to_owned());
    let outage = judge(&build, outage, late);
    assert!(matches!(outage, Verdict::Retry { charged: false, .. }), "no fault of the build");
}

#[test]
fn the_next_attempt_waits_as_long_as_asked_and_no_less_than_the_failures_in_a_row_say() {
    let seconds = Duration::from_secs;
    let delay = |usual, asked: Option<u64>, left: Option<u64>| {
        next_delay(seconds(usual), asked.map(seconds), left.map(seconds)).as_secs()
    };
    assert_eq!(delay(4, None, None), 4);
    assert_eq!(delay(1, Some(3), None), 3, "what Retry-After said");
    assert_eq!(delay(64, Some(1), None), 64, "a registry that always says 1");
    assert_eq!(delay(1, Some(1_000_000), None), 3600);
    assert_eq!(delay(64, None, Some(9)), 9, "once more at the end of its time");
    assert_eq!(delay(64, Some(3), Some(9)), 9);
    assert_eq!(delay(1, Some(9), Some(9)), 9);
}

fn record(build: Build) -> Option<Record> {
    Some(Record { build, revision: 9 })
}

#[test]
fn a_lost_build_is_given_back_if_nobody_has_taken_it_and_its_outcome_published_if_it_has_one() {
    let mine = after_loss(record(running()), 1);
    assert!(matches!(mine, AfterLoss::GiveBack(_)), "{mine:?}");
    let back = Change::GiveBack { epoch: 1, not_before: None, failure: None };
    let waiting = applied(&running(), &[back]);
    let left = after_loss(record(waiting.clone()), 1);
    assert!(matches!(left, AfterLoss::Leave), "it is given back: {left:?}");
    let taken = after_loss(record(applied(&waiting, &[claim(2)])), 1);
    assert!(matches!(taken, AfterLoss::Leave), "{taken:?}");
    let ended = after_loss(record(applied(&running(), &[failed(false)])), 1);
    assert!(matches!(ended, AfterLoss::Ended(_)), "{ended:?}");
    assert!(matches!(after_loss(None, 1), AfterLoss::Leave));
}

#[test]
fn the_outcome_is_published_before_the_letter_is_written_and_the_message_acknowledged_last() {
    use Closing::{Acknowledge, Bury, LeaveTags, PublishOutcome};
    let steps = |build: &Build| closing(build).collect::<Vec<_>>();
    assert_eq!(steps(&applied(&running(), &[failed(false)])), [PublishOutcome, Acknowledge]);
    assert_eq!(steps(&applied(&running(), &[failed(true)])), [PublishOutcome, Bury, Acknowledge]);
    let publishing = applied(&running(), &[Change::Publish { epoch: 1 }]);
    let ended = applied(&publishing, &[failed(true)]);
    assert_eq!(steps(&ended), [PublishOutcome, LeaveTags, Bury, Acknowledge]);
}

#[test]
fn the_start_is_published_again_before_an_outcome_as_long_as_a_copy_is_noticed() {
    let now = Timestamp::now();
    let earlier = |seconds| now.checked_sub(Duration::from_secs(seconds)).expect("a time");
    let ended = |started: Timestamp, change: &Change| {
        let claimed = testing::build().apply(&claim(1), started).expect("it is claimed");
        may_be_unannounced(&claimed.apply(change, now).expect("it ends"), now)
    };
    let started = ended(earlier(1), &failed(false)).expect("it is published");
    assert_eq!((started.body.short_type(), started.time), ("build.started", earlier(1)));
    assert!(ended(earlier(200), &failed(false)).is_none(), "a copy would not be noticed");
    let started = ended(earlier(200), &claim(2)).expect("the second attempt has just started");
    assert_eq!(started.time, now);
    let cancel = Change::Cancel { message: "no more".to_owned() };
    assert!(ended(earlier(1), &cancel).is_none(), "its outcome is published");
}

#[test]
fn a_corrupt_request_fails_its_build_unless_that_has_ended() {
    let build = testing::build();
    let why = DeliveryError::Header("Slipway-Order");
    let failed = corrupt(&build, &why, build.accepted_at).expect("it fails");
    assert!(failed.is_dead());
    assert!(corrupt(&failed, &why, build.accepted_at).is_none());
}
