// SPDX-License-Identifier: Apache-2.0

//! A worker: it claims a build, publishes its image under its tag, records and announces the
//! outcome, and acknowledges.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use slipway_proto::outcome::Image;
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Reference, WorkerId};
use slipway_queue::Record;
use slipway_queue::protocol::attempt::{
    self, Attempt, AttemptFailure, End, Registry, Tagged, Work, called_off,
};
use slipway_queue::protocol::claim::Claim;
use slipway_queue::tag::TagOwner;

use super::operations::{Actor, Sends, Unlooked};
use crate::model::gate::{Choice, Gate, Task};
use crate::model::server::{Server, Taken};
use crate::model::world::{World, digest, image};

/// What ends an attempt from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The worker finds that its lease has run out.
    Lost,
    /// The attempt took too long.
    Deadline,
    /// The worker looks whether others have ended the build.
    Notice,
    /// The worker is told to stop.
    HandBack,
}

/// A worker, which holds one build at a time.
#[derive(Default)]
pub(crate) struct Worker {
    /// How often it was started: each time it has another name.
    lives: u32,
    held: Option<Held>,
}

/// What a worker has in hand.
struct Held {
    task: Task,
    gate: Gate,
    sequence: u64,
    /// Whether its lease has ended, which it does not know.
    asleep: bool,
    unlooked: Unlooked,
    signals: Arc<Signals>,
}

/// What comes to an attempt from outside.
#[derive(Default)]
struct Signals {
    lease_over: AtomicBool,
    interruption: Mutex<Option<Interruption>>,
}

impl Signals {
    fn interrupt(&self, how: Interruption) {
        if how == Interruption::Lost {
            self.lease_over.store(true, Relaxed);
        }
        *self.interruption.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    }

    fn take(&self) -> Option<Interruption> {
        self.interruption.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Looked at whenever the attempt is polled, so nobody need be woken.
    async fn interrupted(&self) -> Interruption {
        std::future::poll_fn(|_| self.take().map_or(Poll::Pending, Poll::Ready)).await
    }
}

impl Worker {
    /// Returns whether it holds nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_none()
    }

    /// Notes that the lease of a request has ended, behind the worker's back.
    pub(crate) fn fall_asleep(&mut self, sequence: u64) {
        if let Some(held) = self.held.as_mut().filter(|held| held.sequence == sequence) {
            held.asleep = true;
        }
    }

    /// Starts again with nothing.
    pub(crate) fn crash(&mut self, sleepers_die: bool) {
        let between = |held: &Held| held.asleep && held.unlooked.is_due() && !sleepers_die;
        if !self.held.as_ref().is_some_and(between) {
            self.held = None;
            self.lives += 1;
        }
    }

    /// Ends the attempt from outside, if it is at something that can be ended.
    pub(crate) async fn interrupt(&mut self, how: Interruption) {
        let Some(held) = &mut self.held else { return };
        held.signals.interrupt(how);
        if held.gate.settle(&mut held.task).await {
            self.held = None;
        }
    }

    /// Has it do its next operation, or take a request.
    pub(crate) async fn step<S: Server>(
        &mut self,
        world: &Arc<World<S>>,
        number: usize,
        choice: Choice,
    ) {
        if let Some(held) = &mut self.held {
            if held.gate.step(&mut held.task, choice).await {
                self.held = None;
            }
        } else if let Some(taken) = world.server.take().await {
            world.note_taken(&taken);
            let id = format!("worker-{number}-{}", self.lives).parse().expect("a name");
            self.begin(world, id, taken).await;
        }
    }

    async fn begin<S: Server>(
        &mut self,
        world: &Arc<World<S>>,
        id: WorkerId,
        taken: Taken<S::Delivery>,
    ) {
        let (gate, signals) = (Gate::default(), Arc::<Signals>::default());
        let sequence = taken.sequence;
        let actor = Actor::new(world, &gate, Sends::AtOnce);
        let unlooked = actor.unlooked.clone();
        let mut task: Task = Box::pin(handle(actor, Arc::clone(&signals), id, taken));
        if !gate.settle(&mut task).await {
            self.held = Some(Held { task, gate, sequence, asleep: false, unlooked, signals });
        }
    }
}

async fn handle<S: Server>(
    actor: Actor<S>,
    signals: Arc<Signals>,
    id: WorkerId,
    taken: Taken<S::Delivery>,
) {
    let Taken { delivery, delivered, .. } = taken;
    let worker = attempt::Worker { operations: &actor, registry: &actor, id: &id };
    let holds_lease = || !signals.lease_over.load(Relaxed);
    let claim = worker.claim(&delivered, &delivery, holds_lease).await;
    // Without an answer of the server the message comes back when its lease ends.
    let Ok(Claim::Claimed(claimed)) = claim else { return };
    let (request, claim) = (delivered.request, claimed.0.clone());
    let work = ImageWork { actor: actor.clone(), request, claim, signals: Arc::clone(&signals) };
    Attempt::new(worker, &delivery, *claimed, work).run().await;
}

fn failure(transient: bool) -> AttemptFailure {
    let failure = Failure::new(Reason::PushImageFailed, "the registry does not answer");
    AttemptFailure { failure, transient, charged: true, retry_after: None }
}

impl<S: Server> Actor<S> {
    /// Writes a tag, which may arrive although the registry does not say so.
    async fn write_tag(
        &self,
        reference: &Reference,
        image: slipway_proto::BuildId,
        request: &BuildRequest,
    ) -> Result<(), AttemptFailure> {
        let turn = self.gate.turn().await;
        self.world.write_tag(reference, image, request.build);
        self.unlooked.write(image);
        match turn.choice {
            Choice::Transient => Err(failure(true)),
            _ => Ok(()),
        }
    }
}

impl<S: Server> Registry for Actor<S> {
    fn has_tags(&self) -> bool {
        true
    }

    async fn point(
        &self,
        request: &BuildRequest,
        owner: &TagOwner,
        _writer: &str,
    ) -> Result<bool, AttemptFailure> {
        self.write_tag(&owner.reference, owner.build, request).await.map(|()| true)
    }
}

/// An attempt that makes no image.
struct ImageWork<S: Server> {
    actor: Actor<S>,
    request: BuildRequest,
    /// The record as it was claimed.
    claim: Record,
    signals: Arc<Signals>,
}

impl<S: Server> Work for ImageWork<S> {
    type Made = ();

    fn holds_lease(&self) -> bool {
        !self.signals.lease_over.load(Relaxed)
    }

    async fn make(&self, _claimed: &Record) -> Result<(), AttemptFailure> {
        let choice = self.actor.gate.turn().await.choice;
        match choice {
            Choice::Well => Ok(()),
            Choice::Transient => Err(failure(true)),
            Choice::Permanent => Err(failure(false)),
            Choice::HandBack => {
                self.signals.interrupt(Interruption::HandBack);
                std::future::pending().await
            }
        }
    }

    async fn interrupted(&self) -> End {
        loop {
            match self.signals.interrupted().await {
                Interruption::Lost => return End::Lost,
                Interruption::Deadline => return End::Failed(failure(false)),
                Interruption::HandBack => return End::HandedBack,
                Interruption::Notice => {
                    let _busy = self.actor.gate.beside();
                    let server = &self.actor.world.server;
                    if let Ok(Some(record)) = called_off(server, &self.request).await {
                        return End::CalledOff(record);
                    }
                }
            }
        }
    }

    fn stop(&self) {}

    fn digest(&self, (): &()) -> Digest {
        digest(self.request.build)
    }

    async fn put_tag(&self, reference: &Reference, (): &(), _writer: &str) -> Result<(), End> {
        if !self.holds_lease() {
            return Err(End::Lost);
        }
        let written = self.actor.write_tag(reference, self.request.build, &self.request).await;
        self.actor.world.history().note_own_tag(&self.claim.build);
        written.map_err(End::Failed)
    }

    fn outcome(&self, (): (), tagged: Tagged) -> Image {
        image(&self.request, tagged)
    }

    fn retry_delay(&self, _failures: u32) -> Duration {
        Duration::ZERO
    }

    fn line(&self, _line: &str) {}

    async fn finish_log(&mut self, _last_line: &str) {}
}
