// SPDX-License-Identifier: Apache-2.0

use slipway_proto::{Build, Change, Failure, Phase, Reason, WorkerId};

use super::*;
use crate::testing;

fn worker() -> WorkerId {
    "w1".parse().expect("a name")
}

fn applied(build: &Build, change: &Change) -> Build {
    build.apply(change, build.accepted_at).expect("it applies")
}

fn queued() -> Build {
    testing::build()
}

fn running() -> Build {
    applied(&queued(), &Change::Claim { epoch: 1, worker: worker() })
}

fn failed(dead: bool) -> Build {
    let failure = Failure::new(Reason::PushImageFailed, "the registry is away");
    applied(&running(), &Change::Fail { epoch: 1, failure, dead })
}

fn cancelled() -> Build {
    applied(&queued(), &Change::Cancel { message: "no more".into() })
}

/// A view of a record that was seen when it was accepted, and a time so long after.
fn view(build: &Build, seconds: i64) -> (View, Timestamp) {
    let document = serde_json::to_vec(build).expect("JSON").into();
    let stored = Stored { document, revision: 7 };
    let view = View::read(&stored, build.accepted_at).expect("it is a record");
    (view, build.accepted_at + SignedDuration::from_secs(seconds))
}

fn state(build: &Build) -> ProjectedState {
    ProjectedState::of(build)
}

fn told(state: Option<ProjectedState>) -> Facts {
    Facts { told: Some(state), ..Facts::default() }
}

fn listed(in_queue: bool) -> Facts {
    Facts { in_queue: Some(in_queue), ..Facts::default() }
}

#[test]
fn what_is_read_of_a_record_is_what_the_whole_record_says() {
    let mut keyed = running();
    keyed.request.supersede_key = Some("a \"branch\"".to_owned());
    keyed.order = 5;
    let publishing = applied(&keyed, &Change::Publish { epoch: 1 });
    let failure = Failure::new(Reason::PushImageFailed, "the registry is away");
    let fail = Change::Fail { epoch: 1, failure: failure.clone(), dead: false };
    let not_before = queued().accepted_at + SignedDuration::from_secs(9);
    let builds = [
        queued(),
        running(),
        publishing.clone(),
        applied(&publishing, &fail),
        applied(&publishing, &Change::Succeed { epoch: 1, image: Box::new(testing::image()) }),
        applied(&running(), &Change::Retry { epoch: 1, not_before, failure }),
        failed(true),
        applied(&failed(true), &Change::Replay { epoch: 2 }),
        cancelled(),
    ];
    for build in builds {
        let (view, _) = view(&build, 0);
        let request = &build.request;
        assert_eq!((&view.project, view.build), (&request.project, request.build));
        assert_eq!(view.state, StateName::from(&build.state.phase));
        assert_eq!((view.epoch, view.replays), (build.state.epoch, build.replays));
        assert_eq!(view.order, if build.order == 0 { 7 } else { build.order });
        assert_eq!(view.started, build.started_at.is_some() && build.last_worker.is_some());
        assert_eq!((view.dead, view.leaves_tags), (build.is_dead(), build.leaves_tags()));
        assert_eq!(view.class, (request.pool.clone(), request.priority));
        assert_eq!(view.queued_since, build.queued_since());
        assert_eq!(view.finished_at, build.finished_at);
        assert_eq!(view.supersede_key.as_deref(), request.supersede_key.as_deref());
        let told = match &build.state.phase {
            Phase::Queued { not_before } => *not_before,
            _ => None,
        };
        assert_eq!(view.not_before, told);
    }
}

#[test]
fn a_record_that_just_changed_is_left_alone() {
    for build in [queued(), running(), failed(true), cancelled()] {
        let (view, now) = view(&build, 4);
        assert!(!view.is_due(false, now), "{:?}", view.state);
        assert!(!view.asks_for_request(now) && !view.asks_for_events(now));
    }
    let mut replayed = applied(&failed(true), &Change::Replay { epoch: 2 });
    replayed.replayed_at = Some(replayed.accepted_at + SignedDuration::from_secs(60));
    let (view, now) = view(&replayed, 62);
    assert!(!view.is_due(false, now), "the reader is behind: it was queued anew just now");
}

#[test]
fn a_build_without_a_request_is_queued_whatever_it_does() {
    let publishing = applied(&running(), &Change::Publish { epoch: 1 });
    for build in [queued(), running(), publishing] {
        let (mut view, now) = view(&build, 6);
        assert!(view.asks_for_request(now));
        assert_eq!(decide(&view, &listed(false), now), [Repair::Enqueue], "{:?}", view.state);
        assert_eq!(decide(&view, &listed(true), now), []);
        assert_eq!(decide(&view, &Facts::default(), now), [], "the queue was not listed");
        view.settle(&listed(true), &[], now);
        assert!(!view.asks_for_request(now + SignedDuration::from_secs(9)));
        assert!(view.asks_for_request(now + SignedDuration::from_secs(10)));
    }
}

#[test]
fn the_events_that_are_missing_are_published_in_their_order() {
    use Repair::{FinishedEvent, QueuedEvent, StartedEvent};
    let cases: [(Build, Option<Build>, &[Repair]); 8] = [
        (queued(), None, &[QueuedEvent]),
        (queued(), Some(queued()), &[]),
        (running(), Some(queued()), &[]),
        (failed(false), None, &[QueuedEvent, StartedEvent, FinishedEvent]),
        (failed(false), Some(queued()), &[StartedEvent, FinishedEvent]),
        (failed(false), Some(running()), &[FinishedEvent]),
        (failed(false), Some(failed(false)), &[]),
        (cancelled(), Some(queued()), &[FinishedEvent]),
    ];
    for (build, events, expected) in cases {
        let (view, now) = view(&build, 10);
        let repairs = decide(&view, &told(events.as_ref().map(state)), now);
        assert_eq!(repairs, expected, "{:?} told as {events:?}", view.state);
    }
}

#[test]
fn a_replay_has_events_of_its_own() {
    use Repair::{DropLetter, FinishedEvent, QueuedEvent, StartedEvent};
    let first = failed(true);
    let replayed = applied(&first, &Change::Replay { epoch: 2 });
    let (mut seen, now) = view(&replayed, 10);
    assert_eq!(decide(&seen, &told(Some(state(&first))), now), [QueuedEvent, DropLetter]);
    seen.settle(&Facts::default(), &[DropLetter], now);
    assert_eq!(decide(&seen, &Facts::default(), now), [], "the letter is looked for once");
    let cancelled = applied(&replayed, &Change::Cancel { message: "no more".into() });
    let (seen, now) = view(&cancelled, 10);
    // It was never started again.
    let expected = [QueuedEvent, FinishedEvent, DropLetter];
    assert_eq!(decide(&seen, &told(Some(state(&first))), now), expected);
    let claimed = applied(&replayed, &Change::Claim { epoch: 3, worker: worker() });
    let Phase::Failed { failure, .. } = first.state.phase.clone() else { panic!("it failed") };
    let again = applied(&claimed, &Change::Fail { epoch: 3, failure, dead: false });
    let (seen, now) = view(&again, 10);
    let expected = [QueuedEvent, StartedEvent, FinishedEvent, DropLetter];
    assert_eq!(decide(&seen, &told(Some(state(&first))), now), expected);
}

#[test]
fn events_that_never_arrive_are_given_up() {
    let (mut view, now) = view(&cancelled(), 10);
    let facts = told(None);
    for _ in 0..MAX_EVENT_TRIES {
        assert!(view.asks_for_events(now));
        let repairs = decide(&view, &facts, now);
        view.settle(&facts, &repairs, now);
    }
    assert!(!view.asks_for_events(now));
}

#[test]
fn the_request_of_a_finished_build_leaves_the_queue_by_its_worker_or_by_us() {
    let (view, _) = view(&failed(false), 0);
    let at = |seconds| view.seen_at + SignedDuration::from_secs(seconds);
    assert!(!view.asks_for_request(at(19)), "the next worker may still acknowledge it");
    assert!(view.asks_for_request(at(20)));
    assert_eq!(decide(&view, &listed(true), at(20)), [Repair::RemoveRequest]);
    assert_eq!(decide(&view, &listed(false), at(20)), []);
}

#[test]
fn a_dead_build_gets_its_letter_before_its_request_is_removed() {
    let (mut view, _) = view(&failed(true), 0);
    let at = |seconds| view.seen_at + SignedDuration::from_secs(seconds);
    let (soon, late) = (at(6), at(20));
    let unknown = decide(&view, &Facts::default(), soon);
    assert_eq!(unknown, [], "its outcome may not have been told, and a letter can be replayed");
    view.events_settled = true;
    assert_eq!(decide(&view, &Facts::default(), soon), [Repair::Bury]);
    view.settle(&Facts::default(), &[Repair::Bury], soon);
    assert_eq!(decide(&view, &Facts::default(), soon), []);
    assert_eq!(decide(&view, &listed(true), late), [Repair::Bury, Repair::RemoveRequest]);
    assert!(!view.is_settled());
    view.settle(&Facts { told: Some(None), ..listed(false) }, &[], late);
    assert!(view.is_settled());
}

#[test]
fn a_build_waits_for_its_first_attempt_no_longer_than_it_may() {
    let mut build = queued();
    build.request.queue_timeout_s = 60;
    let (waiting, now) = view(&build, 60);
    let everything = Facts { in_queue: Some(false), told: Some(None), ..Facts::default() };
    assert_eq!(decide(&waiting, &everything, now), [Repair::TimeOut]);
    assert_eq!(decide(&waiting, &listed(true), now - SignedDuration::from_secs(1)), []);
    let claimed = applied(&build, &Change::Claim { epoch: 1, worker: worker() });
    let back = Change::GiveBack { epoch: 1, not_before: None, failure: None };
    for started in [applied(&claimed, &back), claimed] {
        let (view, now) = view(&started, 3600);
        assert_eq!(decide(&view, &listed(true), now), [], "its attempts are not waiting");
    }
}

#[test]
fn a_superseded_build_is_only_called_off() {
    let (view, now) = view(&queued(), 10);
    let later = BuildId::fresh();
    let facts = Facts {
        in_queue: Some(false),
        told: Some(None),
        superseded_by: Some(later),
        ..Facts::default()
    };
    assert_eq!(decide(&view, &facts, now), [Repair::Supersede(later)]);
}

#[test]
fn a_build_that_is_published_or_was_replayed_later_does_not_give_way() {
    let mut build = queued();
    build.order = 3;
    let (waiting, now) = view(&build, 10);
    assert!(waiting.gives_way_to(4, build.accepted_at));
    assert!(!waiting.gives_way_to(3, build.accepted_at), "it is itself");
    assert!(!waiting.gives_way_to(2, now));
    build.replays = 1;
    build.replayed_at = Some(now);
    let (replayed, _) = view(&build, 10);
    assert!(!replayed.gives_way_to(4, build.accepted_at));
    let publishing = applied(&running(), &Change::Publish { epoch: 1 });
    let (publishing, _) = view(&publishing, 10);
    assert!(!publishing.gives_way_to(4, now));
}

#[test]
fn what_the_server_does_not_deliver_is_queued_anew_when_it_should_long_have_been_taken() {
    let stranded = |in_queue| Facts { in_queue, stranded: true, ..Facts::default() };
    let (early, now) = view(&queued(), 29);
    assert_eq!(decide(&early, &stranded(Some(true)), now), []);
    let (late, now) = view(&queued(), 31);
    for in_queue in [Some(true), Some(false), None] {
        let repairs = decide(&late, &stranded(in_queue), now);
        assert_eq!(repairs, [Repair::Requeue], "under an id that the server has not seen");
    }
    assert_eq!(decide(&late, &listed(true), now), []);
    let (ended, now) = view(&cancelled(), 31);
    assert_eq!(decide(&ended, &stranded(None), now), []);
}

#[test]
fn the_request_of_a_finished_build_that_waits_for_its_tags_is_queued_anew_if_it_is_stranded() {
    let publishing = applied(&running(), &Change::Publish { epoch: 1 });
    let failure = Failure::new(Reason::RegistryDenied, "not yours");
    let build = applied(&publishing, &Change::Fail { epoch: 1, failure, dead: false });
    let (mut view, now) = view(&build, 40);
    view.events_settled = true;
    let stranded = |in_queue| Facts { in_queue, stranded: true, ..Facts::default() };
    assert!(view.asks_for_request(now));
    view.settle(&listed(true), &[], now);
    assert!(!view.is_settled(), "a worker has to see to its tags");
    let later = now + SignedDuration::from_secs(10);
    assert!(view.asks_for_request(later) && view.is_overdue(later));
    assert_eq!(decide(&view, &listed(true), later), [], "a worker may hold it");
    assert_eq!(decide(&view, &stranded(Some(true)), later), [Repair::Requeue]);
    for gone in [None, Some(false)] {
        assert_eq!(decide(&view, &stranded(gone), later), [], "the worker acknowledged it");
    }
    view.settle(&listed(false), &[], later);
    assert!(view.is_settled() && !view.is_overdue(later), "the worker acknowledged it");
}
