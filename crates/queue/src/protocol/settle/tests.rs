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
    assert_eq!(judge(&build, transient(true)), retry);
    build.request.max_attempts = 1;
    let Verdict::Fail { failure: last, dead } = judge(&build, transient(true)) else {
        panic!("it was the last")
    };
    assert!(dead, "its request is kept");
    assert_eq!(last.message, "reset (attempt 1 was the last)");
    let free = Verdict::Retry { failure, charged: false, retry_after };
    assert_eq!(judge(&build, transient(false)), free, "no fault of the build");
}

#[test]
fn a_permanent_failure_is_no_dead_letter() {
    let permanent = AttemptFailure { transient: false, ..transient(true) };
    let fail = Verdict::Fail { failure: reset(), dead: false };
    assert_eq!(judge(&running(), permanent), fail);
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
