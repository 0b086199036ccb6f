// SPDX-License-Identifier: Apache-2.0

//! The operations as an actor has them: each waits for its turn, and is noted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_proto::api::WorkerView;
use slipway_proto::event::Event;
use slipway_proto::{
    Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Reference, Timestamp, WorkerId,
};
use slipway_queue::control::ControlError;
use slipway_queue::dead::DeadLetter;
use slipway_queue::delivery::{Answer, DeliveryError, Unconfirmed};
use slipway_queue::protocol::{Feed, Operations, ProjectedState, Unreadable, reconcile};
use slipway_queue::publish::Stored;
use slipway_queue::read::ReadError;
use slipway_queue::requests::RequeueError;
use slipway_queue::tag::{OwnerEntry, TagOwner};
use slipway_queue::{PublishError, QueryError, Record, RecordError};

use crate::model::gate::{Choice, Gate};
use crate::model::server::Server;
use crate::model::world::World;

/// What happens to an event that an actor sends without waiting until it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sends {
    /// It is stored at its turn, unless the scene chooses that it is lost.
    AtOnce,
    /// It is stored when somebody makes sure of it, which a crash can prevent.
    Later,
}

/// The operations of one actor.
pub(super) struct Actor<S: Server> {
    pub(super) world: Arc<World<S>>,
    pub(super) gate: Gate,
    pub(super) sends: Sends,
    /// How much later it is for this actor than for the others.
    pub(super) ahead: Duration,
    pub(super) unlooked: Unlooked,
}

impl<S: Server> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self {
            world: Arc::clone(&self.world),
            gate: self.gate.clone(),
            sends: self.sends,
            ahead: self.ahead,
            unlooked: self.unlooked.clone(),
        }
    }
}

/// Whose image an actor has pointed a tag at, until it has seen that this is the tag's owner.
#[derive(Clone, Default)]
pub(super) struct Unlooked(Arc<Mutex<Option<BuildId>>>);

impl Unlooked {
    fn inner(&self) -> MutexGuard<'_, Option<BuildId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, image: BuildId) {
        *self.inner() = Some(image);
    }

    fn look(&self, owner: Option<BuildId>) {
        let mut written = self.inner();
        if *written == owner {
            *written = None;
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.inner().is_some()
    }
}

/// An event that was sent.
pub(super) struct Sent {
    event: Event,
    is_stored: bool,
}

impl<S: Server> Actor<S> {
    pub(super) fn new(world: &Arc<World<S>>, gate: &Gate, sends: Sends) -> Self {
        Self {
            world: Arc::clone(world),
            gate: gate.clone(),
            sends,
            ahead: Duration::ZERO,
            unlooked: Unlooked::default(),
        }
    }

    async fn store(&self, event: &Event) -> Result<u64, PublishError> {
        let sequence = self.world.server.publish(event).await?;
        self.world.history().note_event(event, sequence);
        Ok(sequence)
    }
}

impl<S: Server> Operations for Actor<S> {
    type Creating = Build;
    type Sent = Sent;
    type Delivery = S::Delivery;

    fn now(&self) -> Timestamp {
        self.world.now() + self.ahead
    }

    async fn pause(&self, period: Duration) {
        let _turn = self.gate.turn().await;
        self.world.pass(period);
    }

    async fn begin_create(&self, build: Build) -> Build {
        build
    }

    async fn finish_create(&self, build: Build) -> Result<Record, RecordError> {
        let _turn = self.gate.turn().await;
        let record = self.world.server.create(build).await?;
        self.world.history().note_created(&record);
        Ok(record)
    }

    async fn update(&self, next: Build, revision: u64) -> Result<Record, RecordError> {
        let _turn = self.gate.turn().await;
        let record = self.world.server.update(next, revision).await?;
        self.world.history().note_changed(&record.build);
        Ok(record)
    }

    async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        let _turn = self.gate.turn().await;
        self.world.server.delete(record).await?;
        self.world.history().moves += 1;
        Ok(())
    }

    async fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        let _turn = self.gate.turn().await;
        self.world.server.record(project, build).await
    }

    async fn enqueue(
        &self,
        build: &Build,
        traceparent: Option<&str>,
    ) -> Result<Stored, PublishError> {
        let _turn = self.gate.turn().await;
        let stored = self.world.server.enqueue(build, traceparent).await?;
        self.world.history().moves += u64::from(stored == Stored::Now);
        Ok(stored)
    }

    async fn requeue(&self, build: &Build) -> Result<(), RequeueError> {
        let _turn = self.gate.turn().await;
        self.world.server.requeue(build).await
    }

    async fn holds(&self, request: &BuildRequest) -> Result<bool, QueryError> {
        let _turn = self.gate.turn().await;
        self.world.server.holds(request).await
    }

    async fn remove_request(&self, request: &BuildRequest) -> Result<(), QueryError> {
        let _turn = self.gate.turn().await;
        self.world.server.remove_request(request).await
    }

    async fn all_in_queue(&self) -> Result<BTreeSet<BuildId>, QueryError> {
        let _turn = self.gate.turn().await;
        self.world.server.all_in_queue().await
    }

    async fn stranded(&self) -> Result<BTreeSet<(PoolName, Priority)>, QueryError> {
        self.world.server.stranded().await
    }

    fn is_repeated(&self, delivery: &S::Delivery) -> bool {
        self.world.server.is_repeated(delivery)
    }

    async fn answer(&self, delivery: &S::Delivery, answer: Answer) -> Result<(), Unconfirmed> {
        let _turn = self.gate.turn().await;
        self.world.server.answer(delivery, answer).await?;
        if answer == Answer::Done {
            self.world.note_acknowledged(delivery);
        }
        Ok(())
    }

    async fn send(&self, event: Event) -> Sent {
        let mut is_stored = false;
        if self.sends == Sends::AtOnce {
            let turn = self.gate.turn().await;
            if turn.choice == Choice::Well {
                self.world.history().note_start(&event);
                is_stored = self.store(&event).await.is_ok();
            }
        }
        Sent { event, is_stored }
    }

    async fn stored(&self, sent: &mut Sent) -> Result<u64, PublishError> {
        if sent.is_stored {
            return Ok(0);
        }
        self.publish(&sent.event).await
    }

    async fn publish(&self, event: &Event) -> Result<u64, PublishError> {
        let _turn = self.gate.turn().await;
        self.store(event).await
    }

    async fn tell(&self, _event: &Event) {}

    async fn tag_owner(&self, reference: &Reference) -> Result<Option<OwnerEntry>, RecordError> {
        let _turn = self.gate.turn().await;
        let found = self.world.server.tag_owner(reference).await?;
        self.unlooked.look(found.as_ref().map(|entry| entry.owner.build));
        Ok(found)
    }

    async fn enter_owner(&self, owner: &TagOwner, revision: u64) -> Result<(), RecordError> {
        let _turn = self.gate.turn().await;
        self.world.server.enter_owner(owner, revision).await
    }

    async fn bury(&self, build: &Build) -> Result<(), PublishError> {
        let _turn = self.gate.turn().await;
        self.world.server.bury(build).await?;
        self.world.history().moves += 1;
        Ok(())
    }

    async fn bury_delivery(
        &self,
        delivery: &S::Delivery,
        why: &DeliveryError,
    ) -> Result<(), PublishError> {
        let _turn = self.gate.turn().await;
        self.world.server.bury_delivery(delivery, why).await
    }

    async fn letter(
        &self,
        project: &ProjectName,
        build: &str,
    ) -> Result<Option<DeadLetter>, ReadError> {
        let _turn = self.gate.turn().await;
        self.world.server.letter(project, build).await
    }

    async fn drop_letter(&self, letter: &DeadLetter) -> Result<(), QueryError> {
        let _turn = self.gate.turn().await;
        self.world.server.drop_letter(letter).await?;
        self.world.history().moves += 1;
        Ok(())
    }

    async fn announce_cancel(&self, _build: BuildId) -> Result<(), ControlError> {
        // Words to workers can be lost.
        Ok(())
    }

    async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(WorkerView, Duration)>, RecordError> {
        self.world.server.worker(worker).await
    }

    fn reconnected_within(&self, period: Duration) -> bool {
        self.world.server.reconnected_within(period)
    }
}

impl<S: Server> Feed for Actor<S> {
    async fn state(
        &self,
        _project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<ProjectedState>, Unreadable> {
        let _busy = self.gate.beside();
        Ok(self.world.projected(build).await.map(|build| ProjectedState::of(&build)))
    }

    fn publish_later(&self, _event: Event) {
        // As if it crashed before it could.
    }
}

impl<S: Server> reconcile::Projection for Actor<S> {
    type Error = Unreadable;

    async fn states(
        &self,
        builds: Vec<(ProjectName, BuildId)>,
    ) -> Result<Option<Vec<Option<ProjectedState>>>, Unreadable> {
        let _turn = self.gate.turn().await;
        let events = self.world.server.events().await;
        let state = |id| crate::model::world::projected(&events, id);
        let states = builds.into_iter().map(|(_, id)| state(id).as_ref().map(ProjectedState::of));
        Ok(Some(states.collect()))
    }
}
