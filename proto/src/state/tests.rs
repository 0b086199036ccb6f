// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;
use crate::{Digest, Platform, Reason};

fn worker(name: &str) -> WorkerId {
    name.parse().expect("a worker id")
}

fn image() -> Box<Image> {
    let reference: crate::Reference = "r.example/app".parse().expect("a reference");
    Box::new(Image {
        digest: Digest::of(b"manifest"),
        pull: reference.with_digest(Digest::of(b"manifest")),
        references: vec![reference],
        superseded: vec![],
        platform: Platform::LINUX_AMD64,
        config_digest: Digest::of(b"config"),
        base: None,
        layers: vec![],
        size_bytes: 0,
        sent_bytes: 0,
        assembly_version: 1,
        platforms: Vec::new(),
        stages: vec![],
    })
}

fn after(changes: &[Change]) -> BuildState {
    changes.iter().fold(BuildState::accepted(), |state, change| {
        state.apply(change).expect("the change applies")
    })
}

fn retry(epoch: Epoch) -> Change {
    let failure = Failure::new(Reason::PushImageFailed, "reset");
    Change::Retry { epoch, not_before: Timestamp::UNIX_EPOCH, failure }
}

fn give_back(epoch: Epoch) -> Change {
    Change::GiveBack { epoch, not_before: None, failure: None }
}

fn claim(epoch: Epoch) -> Change {
    Change::Claim { epoch, worker: worker("w") }
}

#[test]
fn a_good_build_passes_through_its_stages_to_one_outcome() {
    let done = after(&[
        claim(1),
        Change::Enter { epoch: 1, stage: Stage::Push },
        Change::Publish { epoch: 1 },
        Change::Succeed { epoch: 1, image: image() },
    ]);
    assert!(done.is_finished());
    assert_eq!((done.epoch, done.attempt), (1, 1));
    let cancelled = Change::Cancel { message: "late".into() };
    assert_eq!(done.apply(&cancelled), Err(Refusal::Finished));
}

#[test]
fn a_worker_that_lost_its_build_is_fenced_off() {
    let state = after(&[claim(1), claim(2)]);
    assert_eq!(state.attempt, 2);
    let stale = Refusal::StaleEpoch { offered: 1, current: 2 };
    assert_eq!(state.apply(&Change::Publish { epoch: 1 }), Err(stale));
    assert_eq!(state.apply(&retry(1)), Err(stale));
}

#[test]
fn a_given_back_attempt_is_not_charged_and_a_retried_one_is() {
    let given_back = after(&[claim(1), give_back(1), claim(2)]);
    assert_eq!(given_back.attempt, 1);
    assert_eq!(after(&[claim(1), retry(1), claim(2)]).attempt, 2);
}

#[test]
fn failures_in_a_row_count_whether_they_are_charged_or_not() {
    let limited = Change::GiveBack {
        epoch: 2,
        not_before: None,
        failure: Some(Failure::new(Reason::PushImageFailed, "x")),
    };
    let twice = after(&[claim(1), retry(1), claim(2), limited, claim(3)]);
    assert_eq!((twice.failures, twice.attempt), (2, 2));
    let drained = twice.apply(&give_back(3)).expect("it is held");
    assert_eq!(drained.failures, 2, "a worker that stops is no failure");
}

#[test]
fn a_build_whose_tags_are_being_written_cannot_be_cancelled() {
    let state = after(&[claim(1), Change::Publish { epoch: 1 }]);
    assert_eq!(state.apply(&Change::Cancel { message: "x".into() }), Err(Refusal::TooLate));
}

#[test]
fn a_failed_build_alone_can_be_replayed_under_a_newer_epoch_with_all_its_attempts() {
    let failure = Failure::new(Reason::PushImageFailed, "x");
    let fail = Change::Fail { epoch: 1, failure, dead: true };
    let failed = after(&[claim(1), fail]);
    let stale = Refusal::StaleEpoch { offered: 1, current: 1 };
    assert_eq!(failed.apply(&Change::Replay { epoch: 1 }), Err(stale));
    let replayed = failed.apply(&Change::Replay { epoch: 2 }).expect("it failed");
    assert_eq!((replayed.epoch, replayed.attempt), (2, 0));
    assert_eq!(replayed.apply(&Change::Replay { epoch: 3 }), Err(Refusal::NotFailed));
    let dropped = failed.apply(&Change::DropLetter).expect("it failed");
    assert!(matches!(dropped.phase, Phase::Failed { dead: false, .. }), "{dropped:?}");
    let cancelled = after(&[Change::Cancel { message: "x".into() }]);
    assert_eq!(cancelled.apply(&Change::Replay { epoch: 9 }), Err(Refusal::NotFailed));
}

fn any_change() -> impl Strategy<Value = Change> {
    let epoch = 0u64..6;
    prop_oneof![
        epoch.clone().prop_map(claim),
        epoch.clone().prop_map(|epoch| Change::Enter { epoch, stage: Stage::Push }),
        epoch.clone().prop_map(|epoch| Change::Publish { epoch }),
        epoch.clone().prop_map(|epoch| Change::Succeed { epoch, image: image() }),
        epoch.clone().prop_map(|epoch| Change::Fail {
            epoch,
            failure: Failure::new(Reason::InvalidArtifact, "x"),
            dead: true,
        }),
        epoch.clone().prop_map(|epoch| Change::Replay { epoch }),
        Just(Change::DropLetter),
        epoch.clone().prop_map(retry),
        epoch.prop_map(give_back),
        Just(Change::Cancel { message: "x".into() }),
    ]
}

proptest! {
    /// In any order of changes: epochs never go back, a finished build never changes, no image is
    /// published without the newest epoch, and attempts never exceed claims.
    #[test]
    fn no_sequence_of_changes_breaks_the_promises(
        changes in proptest::collection::vec(any_change(), 0..60),
    ) {
        let mut state = BuildState::accepted();
        for change in &changes {
            let Ok(next) = state.apply(change) else { continue };
            let revived = matches!(change, Change::Replay { .. } | Change::DropLetter);
            prop_assert_eq!(state.is_finished(), revived, "{:?} by {:?}", state, change);
            prop_assert!(next.epoch >= state.epoch);
            prop_assert!(u64::from(next.attempt) <= next.epoch);
            if let Change::Succeed { epoch, .. } = change {
                prop_assert_eq!(*epoch, state.epoch);
                let publishing = matches!(state.phase, Phase::Publishing { .. });
                prop_assert!(publishing, "published unannounced");
            }
            state = next;
        }
    }
}
