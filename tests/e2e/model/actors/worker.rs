// SPDX-License-Identifier: Apache-2.0

//! What a worker does with a request: claim the build, publish its image under its tag, record and
//! announce the outcome, acknowledge.

use slipway_proto::event::Event;
use slipway_proto::{Build, Change, Digest, Failure, Phase, Reason, WorkerId};
use slipway_queue::Record;
use slipway_queue::tag::TagOwner;

use super::dispatcher::is_unstarted;
use crate::model::scene::{Scene, image};
use crate::model::world::{Delivery, Server};

/// How the stages, or the write of a tag, come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Well.
    Well,
    /// They fail in a way that may pass. A tag that is written so may arrive all the same.
    Transient,
    /// They fail for good.
    Permanent,
    /// The worker is told to stop, and gives the build back.
    HandBack,
}

/// What ends an attempt from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The worker finds that its lease has run out, or that others have ended the build.
    Lost,
    /// The attempt took too long.
    Deadline,
}

/// A worker, which holds one build at a time.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// How often it was started: each time it has another name.
    lives: u32,
    held: Option<Held>,
}

/// What a worker has in hand.
#[derive(Debug)]
struct Held {
    delivery: Delivery,
    /// Whether its lease has ended, which it does not know.
    asleep: bool,
    /// Whether it has written a tag and not yet seen that the tag is its owner's.
    unlooked: bool,
    /// Whether it has acknowledged before its time, where no rule forbids it.
    acknowledged: bool,
    step: Step,
}

/// The next durable operation.
#[derive(Debug)]
enum Step {
    Read,
    Create,
    GiveBack,
    AnnounceQueued(Option<Record>),
    Claim(Record),
    AnnounceStarted(Record),
    /// The stages up to the tags, and the record that tags will be written.
    Publish(Record),
    ClaimTag(Record),
    /// The tag is pointed at its owner's image.
    Write(Tagging),
    Look(Tagging),
    End(Record, End),
    /// The record of a build that was taken from this worker.
    Lost(Record),
    AnnounceRetry {
        before: Record,
        not_before: slipway_proto::Timestamp,
    },
    /// The build ended without having been started, so its `build.queued` comes first.
    AnnounceUnstarted(Record),
    /// The outcome is recorded.
    AnnounceOutcome(Record),
    /// With the owner whose image the tag was pointed at, if it was.
    LookBeforeEnd(Record, Option<TagOwner>),
    WriteBeforeEnd(Record, TagOwner),
    Bury(Record),
    Acknowledge,
}

#[derive(Debug)]
struct Tagging {
    record: Record,
    owner: TagOwner,
    /// What follows once the tag is its owner's.
    end: End,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeed,
    Fail,
    Retry,
    HandBack,
    Lost,
    Uncharge,
}

impl Worker {
    /// Returns whether it holds nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_none()
    }

    /// Notes that the lease of a request has ended, behind the worker's back.
    fn fall_asleep(&mut self, sequence: u64) {
        if let Some(held) = self.held.as_mut().filter(|held| held.delivery.sequence == sequence) {
            held.asleep = true;
        }
    }

    /// Starts anew with nothing.
    pub(crate) fn crash(&mut self, sleepers_die: bool) {
        let between = |held: &Held| held.asleep && held.unlooked && !sleepers_die;
        if !self.held.as_ref().is_some_and(between) {
            self.held = None;
            self.lives += 1;
        }
    }

    /// Ends the attempt from outside, if it is at something that can be ended.
    pub(crate) fn interrupt(&mut self, how: Interruption, look_after_end: bool) {
        let Some(held) = &mut self.held else { return };
        let end = match how {
            Interruption::Lost => End::Lost,
            Interruption::Deadline => End::Fail,
        };
        match &mut held.step {
            Step::Write(tagging) | Step::Look(tagging) if held.unlooked && look_after_end => {
                tagging.end = end;
            }
            Step::AnnounceStarted(record)
            | Step::Publish(record)
            | Step::ClaimTag(record)
            | Step::Write(Tagging { record, .. })
            | Step::Look(Tagging { record, .. }) => {
                held.step = Step::End(record.clone(), end);
            }
            _ => {}
        }
    }

    fn id(&self, number: usize) -> WorkerId {
        format!("worker-{number}-{}", self.lives).parse().expect("a name")
    }
}

impl<S: Server> Scene<S> {
    /// Has a worker do its next step, or take a request.
    pub(crate) async fn step_worker(&mut self, number: usize, choice: Choice) {
        let Some(mut held) = self.workers[number].held.take() else {
            let taken = self.server.take().await;
            if let Some(delivery) = taken {
                self.outstanding.retain(|other| other.sequence != delivery.sequence);
                self.outstanding.push(delivery);
                self.workers[number].held = Some(Held {
                    delivery,
                    asleep: false,
                    unlooked: false,
                    acknowledged: false,
                    step: self.first_step(delivery),
                });
            }
            return;
        };
        let step = std::mem::replace(&mut held.step, Step::Read);
        let id = self.workers[number].id(number);
        if let Some(next) = self.work(&mut held, step, &id, choice).await {
            held.step = next;
            self.workers[number].held = Some(held);
        }
    }

    fn first_step(&self, delivery: Delivery) -> Step {
        if delivery.count > 1 {
            return Step::Read;
        }
        if !self.rules.queued_from_record {
            return Step::AnnounceQueued(None);
        }
        // As if nobody had changed the record since it was made.
        let untouched = Record { build: self.delivered(delivery), revision: delivery.order };
        match self.window_holds(delivery.accepted_at) {
            true => Step::AnnounceQueued(Some(untouched)),
            false => Step::Claim(untouched),
        }
    }

    async fn work(
        &mut self,
        held: &mut Held,
        step: Step,
        worker: &WorkerId,
        choice: Choice,
    ) -> Option<Step> {
        match step {
            Step::Read => self.look_at(held.delivery, worker).await,
            Step::Create => {
                let build = self.delivered(held.delivery);
                self.create(build).await;
                Some(Step::Read)
            }
            Step::GiveBack => {
                self.give_back(held.delivery).await;
                None
            }
            Step::AnnounceQueued(record) => {
                let delivered = self.delivered(held.delivery);
                let build = record.as_ref().map_or(&delivered, |record| &record.build);
                self.publish(Event::queued(build)).await;
                Some(record.map_or(Step::Read, Step::Claim))
            }
            Step::Claim(record) => self.claim(&record, worker).await,
            Step::AnnounceStarted(record) => {
                let event = Event::started(&record.build).expect("the record is claimed");
                if self.is_overtaken(&record) {
                    self.history.late_events.insert(event.id.clone());
                }
                self.publish(event).await;
                Some(Step::Publish(record))
            }
            Step::Publish(record) => Some(self.run_stages(record, choice).await),
            Step::ClaimTag(_) | Step::Write(_) | Step::Look(_) => {
                self.tag(held, step, choice).await
            }
            Step::End(record, end) => self.end(held, record, end).await,
            Step::Lost(record) => self.lost(&record).await,
            Step::AnnounceRetry { before, not_before } => {
                let (now, failure) = (self.now(), failure());
                let event = Event::retrying(&before.build, worker, &failure, true, not_before, now);
                self.publish(event).await;
                Some(Step::GiveBack)
            }
            step => self.finish(held, step).await,
        }
    }

    /// What the message of a request alone says of its build.
    fn delivered(&self, delivery: Delivery) -> Build {
        let submission = Digest::of(delivery.build.to_string().as_bytes());
        let request = self.request(delivery.build).clone();
        let accepted = Build::accepted(request, submission, delivery.accepted_at);
        Build { order: delivery.order, ..accepted }
    }

    async fn look_at(&mut self, delivery: Delivery, worker: &WorkerId) -> Option<Step> {
        let Some(record) = self.server.read(delivery.build).await else {
            return Some(Step::Create);
        };
        let build = &record.build;
        let others = build.state.holder().is_some_and(|holder| holder != worker);
        let unstarted = self.rules.queued_from_record && build.started_at.is_none();
        Some(if build.state.is_finished() && unstarted {
            Step::AnnounceUnstarted(record)
        } else if build.state.is_finished() {
            Step::AnnounceOutcome(record)
        } else if others && delivery.count == 1 {
            Step::GiveBack
        } else if self.rules.queued_from_record && is_unstarted(build) {
            Step::AnnounceQueued(Some(record))
        } else {
            Step::Claim(record)
        })
    }

    async fn claim(&mut self, record: &Record, worker: &WorkerId) -> Option<Step> {
        let state = &record.build.state;
        let change = if state.attempt < record.build.request.max_attempts {
            Change::Claim { epoch: state.epoch + 1, worker: worker.clone() }
        } else {
            let failure = Failure::new(Reason::AttemptsExhausted, "none is left");
            Change::Fail { epoch: state.epoch, failure, dead: true }
        };
        Some(match self.change(record, &change).await {
            None => Step::Read,
            Some(ended) if ended.build.state.is_finished() => Step::AnnounceOutcome(ended),
            Some(claimed) => Step::AnnounceStarted(claimed),
        })
    }

    async fn run_stages(&mut self, record: Record, choice: Choice) -> Step {
        match choice {
            Choice::Well => {
                let epoch = record.build.state.epoch;
                match self.change(&record, &Change::Publish { epoch }).await {
                    Some(publishing) => Step::ClaimTag(publishing),
                    None => Step::Lost(record),
                }
            }
            Choice::Transient => Step::End(record, End::Retry),
            Choice::Permanent => Step::End(record, End::Fail),
            Choice::HandBack => Step::End(record, End::HandBack),
        }
    }

    async fn tag(&mut self, held: &mut Held, step: Step, choice: Choice) -> Option<Step> {
        match step {
            Step::ClaimTag(record) => {
                let mine = self.owner(&record.build);
                let owner = if self.rules.tag_claim {
                    self.server.claim_tag(&mine).await
                } else {
                    mine.clone()
                };
                // The first attempt can have left nothing behind.
                if owner.build != mine.build && record.build.state.epoch == 1 {
                    return Some(Step::End(record, End::Succeed));
                }
                Some(Step::Write(Tagging { record, owner, end: End::Succeed }))
            }
            Step::Write(mut tagging) => {
                self.write_tag(&tagging.owner, &tagging.record.build);
                if tagging.owner.build == tagging.record.build.request.build {
                    self.forbid_cancelled(&tagging.record);
                }
                if choice == Choice::Transient && tagging.end == End::Succeed {
                    tagging.end = End::Retry;
                }
                if !self.rules.second_look || !self.rules.tag_claim {
                    return Some(Step::End(tagging.record, tagging.end));
                }
                held.unlooked = true;
                Some(Step::Look(tagging))
            }
            Step::Look(tagging) => {
                let later = self.server.owner(&tagging.owner.reference).await;
                Some(match later.filter(|later| *later != tagging.owner) {
                    Some(owner) => Step::Write(Tagging { owner, ..tagging }),
                    None => {
                        held.unlooked = false;
                        Step::End(tagging.record, tagging.end)
                    }
                })
            }
            step => unreachable!("{step:?} does not concern tags"),
        }
    }

    async fn end(&mut self, held: &mut Held, record: Record, end: End) -> Option<Step> {
        let outcome = matches!(end, End::Succeed | End::Fail);
        if outcome && !self.rules.record_before_ack && !held.acknowledged {
            held.acknowledged = true;
            self.acknowledge(held.delivery).await;
            return Some(Step::End(record, end));
        }
        let build = &record.build;
        let epoch = build.state.epoch;
        let not_before = self.now();
        let last = build.state.attempt >= build.request.max_attempts;
        let change = match end {
            End::Lost => return Some(Step::Lost(record)),
            End::Succeed => Change::Succeed { epoch, image: image(&build.request) },
            End::Fail => Change::Fail { epoch, failure: failure(), dead: false },
            End::Retry if last => Change::Fail { epoch, failure: failure(), dead: true },
            End::Retry => Change::Retry { epoch, not_before, failure: failure() },
            End::HandBack => Change::GiveBack { epoch, not_before: None, failure: None },
            End::Uncharge => Change::GiveBack { epoch, not_before: None, failure: Some(failure()) },
        };
        let Some(changed) = self.change(&record, &change).await else {
            // Whoever gives back what is not its own any more says nothing about it.
            return (end != End::HandBack).then_some(Step::Lost(record));
        };
        match end {
            End::HandBack => Some(Step::GiveBack),
            // It comes back when its lease ends.
            End::Uncharge => None,
            End::Retry if !last => Some(Step::AnnounceRetry { before: record, not_before }),
            _ => Some(Step::AnnounceOutcome(changed)),
        }
    }

    async fn lost(&mut self, held: &Record) -> Option<Step> {
        let record = self.server.read(held.build.request.build).await?;
        let state = &record.build.state;
        if state.is_finished() {
            return Some(Step::AnnounceOutcome(record));
        }
        let unclaimed = state.epoch == held.build.state.epoch && state.holder().is_some();
        unclaimed.then_some(Step::End(record, End::Uncharge))
    }

    async fn finish(&mut self, held: &mut Held, step: Step) -> Option<Step> {
        match step {
            Step::AnnounceUnstarted(record) => {
                self.publish(Event::queued(&record.build)).await;
                Some(Step::AnnounceOutcome(record))
            }
            Step::AnnounceOutcome(record) => {
                self.publish(Event::finished(&record.build)?).await;
                let succeeded = matches!(record.build.state.phase, Phase::Succeeded { .. });
                let clean = succeeded || record.build.state.epoch == 0;
                let look = self.rules.look_before_end && !clean;
                Some(if look {
                    Step::LookBeforeEnd(record, None)
                } else {
                    Self::bury_or_end(record)
                })
            }
            Step::LookBeforeEnd(record, written) => {
                let owner = self.server.owner(record.build.request.image()).await;
                let others = owner.filter(|owner| owner.build != record.build.request.build);
                held.unlooked = false;
                Some(match others.filter(|owner| Some(owner) != written.as_ref()) {
                    Some(owner) => Step::WriteBeforeEnd(record, owner),
                    None => Self::bury_or_end(record),
                })
            }
            Step::WriteBeforeEnd(record, owner) => {
                self.write_tag(&owner, &record.build);
                held.unlooked = true;
                Some(Step::LookBeforeEnd(record, Some(owner)))
            }
            Step::Bury(record) => {
                self.server.bury(&record.build).await;
                self.history.moves += 1;
                Some(Step::Acknowledge)
            }
            Step::Acknowledge => {
                self.acknowledge(held.delivery).await;
                None
            }
            step => unreachable!("{step:?} is not the end"),
        }
    }

    fn bury_or_end(record: Record) -> Step {
        if record.build.is_dead() { Step::Bury(record) } else { Step::Acknowledge }
    }

    /// Has a request delivered again, whoever holds it by now.
    pub(crate) async fn give_back(&mut self, delivery: Delivery) {
        self.server.give_back(delivery).await;
        for worker in &mut self.workers {
            worker.fall_asleep(delivery.sequence);
        }
    }

    async fn acknowledge(&mut self, delivery: Delivery) {
        self.server.acknowledge(delivery).await;
        self.outstanding.retain(|other| other.sequence != delivery.sequence);
        self.history.moves += 1;
    }
}

fn failure() -> Failure {
    Failure::new(Reason::PushImageFailed, "the registry does not answer")
}
