// SPDX-License-Identifier: Apache-2.0

//! What a dispatcher does: accept, cancel, replay and drop, and sweep as the reconciler.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use slipway_proto::event::{Event, EventBody, Queued};
use slipway_proto::{Build, BuildId, Change, Digest, Phase, Timestamp};
use slipway_queue::Record;

use crate::model::scene::Scene;
use crate::model::world::{Enqueued, Letter, Server};

/// What a dispatcher is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// A client submits the build, again or for the first time.
    Submit,
    /// A client cancels it.
    Cancel,
    /// A client has its dead letter replayed.
    Replay,
    /// A client drops its dead letter.
    Drop,
}

/// A dispatcher, which does one thing at a time.
#[derive(Debug, Default)]
pub(crate) struct Dispatcher {
    next: Option<Step>,
}

/// The next durable operation.
#[derive(Debug)]
enum Step {
    Accept(Accept),
    Cancel(Cancel),
    Letter(BuildId, LetterUse),
    Revive(Letter, LetterUse),
    AnnounceReplay(Record, Letter),
    Requeue(Record, Letter),
    DropLetter(Letter),
    Sweep(Sweep),
}

#[derive(Debug)]
enum Accept {
    Look(BuildId),
    Create(BuildId),
    Enqueue { record: Record, fresh: bool },
    Withdraw(Record),
    Answer(Record),
    Announce(Record),
}

#[derive(Debug)]
enum Cancel {
    Read(BuildId),
    Record(Record),
    Remove(Record),
    /// What came before the outcome, which a crash may have kept from being told.
    AnnounceBefore(Record),
    AnnounceOutcome(Record),
}

/// What a letter is wanted for.
#[derive(Debug, Clone, Copy)]
enum LetterUse {
    Replay,
    Drop,
}

/// A sweep of the reconciler.
#[derive(Debug)]
enum Sweep {
    ListQueue,
    ListEvents(BTreeSet<BuildId>),
    Builds(Facts),
}

/// What a sweep found at its start, and what is left to do.
#[derive(Debug)]
struct Facts {
    in_queue: BTreeSet<BuildId>,
    /// What the events say of each build.
    stands: Vec<Option<Stand>>,
    /// The builds that are left to look at.
    left: VecDeque<usize>,
    /// What is left to do about the last.
    repairs: VecDeque<Repair>,
}

#[derive(Debug, Clone, Copy)]
struct Stand {
    replays: u32,
    epoch: u64,
    finished: bool,
}

#[derive(Debug)]
enum Repair {
    Enqueue(Record),
    Publish(Box<Event>),
    LookForLetter(Record),
    Bury(Record),
    Remove(Record),
    CheckLetter(Record),
    DropLetter(Letter),
}

impl Dispatcher {
    /// Returns whether it does nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.next.is_none()
    }

    /// Begins what it is asked for, unless it does something already.
    pub(crate) fn begin(&mut self, call: Call, build: BuildId) {
        if self.next.is_some() {
            return;
        }
        self.next = Some(match call {
            Call::Submit => Step::Accept(Accept::Create(build)),
            Call::Cancel => Step::Cancel(Cancel::Read(build)),
            Call::Replay => Step::Letter(build, LetterUse::Replay),
            Call::Drop => Step::Letter(build, LetterUse::Drop),
        });
    }

    /// Begins a sweep, unless it does something already.
    pub(crate) fn begin_sweep(&mut self) {
        if self.next.is_none() {
            self.next = Some(Step::Sweep(Sweep::ListQueue));
        }
    }

    /// Forgets everything.
    pub(crate) fn crash(&mut self) {
        self.next = None;
    }
}

impl<S: Server> Scene<S> {
    /// Has a dispatcher do its next step, if it has one.
    pub(crate) async fn step_dispatcher(&mut self, number: usize) {
        let Some(step) = self.dispatchers[number].next.take() else { return };
        let next = match step {
            Step::Accept(step) => self.accept(step).await.map(Step::Accept),
            Step::Cancel(step) => self.cancel(step).await.map(Step::Cancel),
            Step::Sweep(step) => self.sweep(step).await.map(Step::Sweep),
            step => self.use_letter(step).await,
        };
        self.dispatchers[number].next = next;
    }

    async fn accept(&mut self, step: Accept) -> Option<Accept> {
        match step {
            // Only where the record is there already. One that is gone by now is an error, after
            // which the client submits again.
            Accept::Look(build) => match self.server.read(build).await {
                None => None,
                Some(record) if is_untouched(&record.build) => {
                    Some(Accept::Enqueue { record, fresh: false })
                }
                Some(record) => self.answer(&record),
            },
            Accept::Create(id) => {
                let request = self.request(id).clone();
                let submission = Digest::of(id.to_string().as_bytes());
                let build = Build::accepted(request, submission, self.now());
                match self.create(build).await {
                    Some(record) => Some(Accept::Enqueue { record, fresh: true }),
                    None => Some(Accept::Look(id)),
                }
            }
            Accept::Enqueue { record, fresh } => match self.enqueue(&record).await {
                Enqueued::Full => fresh.then_some(Accept::Withdraw(record)),
                Enqueued::Now | Enqueued::Before | Enqueued::Repeated => {
                    Some(Accept::Answer(record))
                }
            },
            Accept::Withdraw(record) => {
                self.withdraw(&record).await;
                None
            }
            // Who is answered does not wait for the event, which a crash may still prevent.
            Accept::Answer(record) => {
                self.answer(&record);
                Some(Accept::Announce(record))
            }
            Accept::Announce(record) => {
                self.publish(Event::queued(&record.build)).await;
                None
            }
        }
    }

    /// The client is told that its build is accepted: the end of the steps that it waits for.
    fn answer(&mut self, record: &Record) -> Option<Accept> {
        self.history.answered.insert(record.build.request.build);
        None
    }

    async fn enqueue(&mut self, record: &Record) -> Enqueued {
        let enqueued = self.server.enqueue(&record.build).await;
        self.history.moves += u64::from(enqueued == Enqueued::Now);
        enqueued
    }

    async fn cancel(&mut self, step: Cancel) -> Option<Cancel> {
        match step {
            Cancel::Read(build) => self.server.read(build).await.map(Cancel::Record),
            Cancel::Record(record) => {
                let change = Change::Cancel { message: "cancelled on request".to_owned() };
                record.build.state.apply(&change).ok()?;
                let waited = matches!(record.build.state.phase, Phase::Queued { .. });
                // An attempt that died may have left the tag to the next, which finds out only if
                // it gets the request.
                let unneeded = !self.rules.look_before_end || record.build.state.epoch == 0;
                match self.change(&record, &change).await {
                    None => Some(Cancel::Read(record.build.request.build)),
                    Some(cancelled) if waited && unneeded => Some(Cancel::Remove(cancelled)),
                    Some(cancelled) => Some(Cancel::AnnounceBefore(cancelled)),
                }
            }
            Cancel::Remove(record) => {
                self.server.remove_request(&record.build).await;
                Some(Cancel::AnnounceBefore(record))
            }
            Cancel::AnnounceBefore(record) => {
                let build = &record.build;
                let before = Event::started(build).unwrap_or_else(|| Event::queued(build));
                self.publish(before).await;
                Some(Cancel::AnnounceOutcome(record))
            }
            Cancel::AnnounceOutcome(record) => {
                self.publish(Event::finished(&record.build)?).await;
                None
            }
        }
    }

    async fn use_letter(&mut self, step: Step) -> Option<Step> {
        match step {
            Step::Letter(build, purpose) => {
                let letter = self.server.letter(build).await?;
                Some(Step::Revive(letter, purpose))
            }
            Step::Revive(letter, LetterUse::Drop) => {
                let record = self.server.read(letter.build).await?;
                if record.build.is_dead()
                    && self.change(&record, &Change::DropLetter).await.is_none()
                {
                    return Some(Step::Revive(letter, LetterUse::Drop));
                }
                Some(Step::DropLetter(letter))
            }
            Step::Revive(letter, LetterUse::Replay) => {
                let record = self.server.read(letter.build).await?;
                let state = &record.build.state;
                if !state.is_finished() {
                    let unstarted = is_unstarted(&record.build);
                    return Some(if unstarted {
                        Step::AnnounceReplay(record, letter)
                    } else {
                        Step::DropLetter(letter)
                    });
                }
                let change = Change::Replay { epoch: state.epoch + 1 };
                state.apply(&change).ok()?;
                Some(match self.change(&record, &change).await {
                    Some(revived) => Step::AnnounceReplay(revived, letter),
                    None => Step::Revive(letter, LetterUse::Replay),
                })
            }
            Step::AnnounceReplay(record, letter) => {
                self.publish(Event::queued(&record.build)).await;
                Some(Step::Requeue(record, letter))
            }
            Step::Requeue(record, letter) => match self.enqueue(&record).await {
                Enqueued::Full => None,
                _ => Some(Step::DropLetter(letter)),
            },
            Step::DropLetter(letter) => {
                self.server.drop_letter(letter).await;
                None
            }
            Step::Accept(_) | Step::Cancel(_) | Step::Sweep(_) => {
                unreachable!("these have steps of their own")
            }
        }
    }

    async fn sweep(&mut self, step: Sweep) -> Option<Sweep> {
        match step {
            Sweep::ListQueue => Some(Sweep::ListEvents(self.server.in_queue().await)),
            Sweep::ListEvents(in_queue) => {
                let events = self.server.events().await;
                let stand = |request: &slipway_proto::BuildRequest| {
                    projected(&events, request.build).map(|build| Stand {
                        replays: build.replays,
                        epoch: build.state.epoch,
                        finished: build.state.is_finished(),
                    })
                };
                let stands = self.requests.iter().map(stand).collect();
                let left = (0..self.requests.len()).collect();
                let repairs = VecDeque::new();
                Some(Sweep::Builds(Facts { in_queue, stands, left, repairs }))
            }
            Sweep::Builds(mut facts) => {
                if let Some(repair) = facts.repairs.pop_front() {
                    if let Some(next) = self.repair(repair).await {
                        facts.repairs.push_front(next);
                    }
                    return Some(Sweep::Builds(facts));
                }
                let number = facts.left.pop_front()?;
                if let Some(record) = self.server.read(self.id(number)).await {
                    let stands = facts.in_queue.contains(&self.id(number));
                    facts.repairs = self.decide(&record, facts.stands[number], stands);
                }
                Some(Sweep::Builds(facts))
            }
        }
    }

    /// Says what is to be done about a build, in order.
    fn decide(&self, record: &Record, stand: Option<Stand>, in_queue: bool) -> VecDeque<Repair> {
        let build = &record.build;
        let finished = build.state.is_finished();
        let mut repairs = VecDeque::new();
        let publish = |event: Event| Repair::Publish(Box::new(event));
        let known = stand.filter(|stand| stand.replays >= build.replays);
        if known.is_none() {
            repairs.push_back(publish(Event::queued(build)));
        }
        if !finished && !in_queue {
            repairs.push_back(Repair::Enqueue(record.clone()));
        }
        if finished {
            let behind = stand.is_none_or(|stand| stand.epoch < build.state.epoch);
            repairs.extend(Event::started(build).filter(|_| behind).map(publish));
            if known.is_none_or(|stand| !stand.finished) {
                repairs.extend(Event::finished(build).map(publish));
            }
            if build.is_dead() {
                repairs.push_back(Repair::LookForLetter(record.clone()));
            }
            let unneeded = !self.rules.look_before_end || build.state.epoch == 0;
            if in_queue && unneeded {
                repairs.push_back(Repair::Remove(record.clone()));
            }
        }
        if self.rules.letters_swept {
            repairs.push_back(Repair::CheckLetter(record.clone()));
        }
        repairs
    }

    /// Does one repair, and returns what follows from it.
    async fn repair(&mut self, repair: Repair) -> Option<Repair> {
        match repair {
            Repair::Enqueue(record) => {
                self.enqueue(&record).await;
                None
            }
            Repair::Publish(event) => {
                self.publish(*event).await;
                None
            }
            Repair::LookForLetter(record) => {
                let buried = self.server.letter(record.build.request.build).await.is_some();
                (!buried).then_some(Repair::Bury(record))
            }
            Repair::Bury(record) => {
                self.server.bury(&record.build).await;
                self.history.moves += 1;
                None
            }
            Repair::Remove(record) => {
                self.server.remove_request(&record.build).await;
                None
            }
            Repair::CheckLetter(record) => {
                let letter = self.server.letter(record.build.request.build).await?;
                let build = &record.build;
                let forgotten = build.state.is_finished() && !build.is_dead();
                let stale = letter.epoch < build.state.epoch
                    || (forgotten && letter.epoch == build.state.epoch);
                stale.then_some(Repair::DropLetter(letter))
            }
            Repair::DropLetter(letter) => {
                self.server.drop_letter(letter).await;
                self.history.moves += 1;
                None
            }
        }
    }
}

/// Whether a build stands as it was accepted.
fn is_untouched(build: &Build) -> bool {
    build.state.epoch == 0 && matches!(build.state.phase, Phase::Queued { .. })
}

/// Whether a build was not started since it was queued.
pub(super) fn is_unstarted(build: &Build) -> bool {
    build.started_at.is_none() && matches!(build.state.phase, Phase::Queued { .. })
}

/// Folds the events of a build, as the projection does: what came before the build was known is
/// folded when it is.
pub(crate) fn projected(events: &[Arc<Event>], id: BuildId) -> Option<Build> {
    let mut of_build = events.iter().filter(|event| event.subject == id);
    let (queued, time) = of_build.clone().find_map(|event| match &event.body {
        EventBody::Queued(queued) => Some((queued, event.time)),
        _ => None,
    })?;
    let build = accepted(queued, time);
    Some(of_build.by_ref().fold(build, |mut build, event| {
        build.fold(event);
        build
    }))
}

fn accepted(queued: &Queued, time: Timestamp) -> Build {
    let mut build = Build::accepted(queued.request.clone(), queued.submission, time);
    build.order = queued.order;
    if queued.replays > 0 {
        build.replays = queued.replays;
        build.state.epoch = queued.epoch;
    }
    build
}
