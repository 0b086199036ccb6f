// SPDX-License-Identifier: Apache-2.0

//! The durable operations on JetStream.

use std::collections::BTreeSet;
use std::time::Duration;

use slipway_proto::api::WorkerView;
use slipway_proto::event::Event;
use slipway_proto::{
    Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Reference, Timestamp, WorkerId,
};

use super::Operations;
use crate::control::ControlError;
use crate::dead::DeadLetter;
use crate::delivery::{Answer, Delivery, DeliveryError, Unconfirmed};
use crate::publish::{Sent, Stored};
use crate::read::ReadError;
use crate::requests::RequeueError;
use crate::tag::{OwnerEntry, TagOwner};
use crate::{Creating, PublishError, QueryError, Queue, Record, RecordError};

impl Operations for Queue {
    type Creating = Creating;
    type Sent = Sent;
    type Delivery = Delivery;

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn pause(&self, period: Duration) {
        tokio::time::sleep(period).await;
    }

    async fn begin_create(&self, build: Build) -> Creating {
        self.records().begin_create(build).await
    }

    async fn finish_create(&self, creating: Creating) -> Result<Record, RecordError> {
        self.records().finish_create(creating).await
    }

    async fn update(&self, next: Build, revision: u64) -> Result<Record, RecordError> {
        self.records().update(next, revision).await
    }

    async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        self.records().delete(record).await
    }

    async fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        Queue::record(self, project, build).await
    }

    async fn enqueue(
        &self,
        build: &Build,
        traceparent: Option<&str>,
    ) -> Result<Stored, PublishError> {
        Queue::enqueue(self, build, traceparent).await
    }

    async fn requeue(&self, build: &Build) -> Result<(), RequeueError> {
        Queue::requeue(self, build).await
    }

    async fn holds(&self, request: &BuildRequest) -> Result<bool, QueryError> {
        Queue::holds(self, request).await
    }

    async fn remove_request(&self, request: &BuildRequest) -> Result<(), QueryError> {
        Queue::remove_request(self, request).await
    }

    async fn all_in_queue(&self) -> Result<BTreeSet<BuildId>, QueryError> {
        Queue::all_in_queue(self).await
    }

    async fn stranded(&self) -> Result<BTreeSet<(PoolName, Priority)>, QueryError> {
        Queue::stranded(self).await
    }

    fn is_repeated(&self, delivery: &Delivery) -> bool {
        delivery.is_repeated()
    }

    async fn answer(&self, delivery: &Delivery, answer: Answer) -> Result<(), Unconfirmed> {
        delivery.answer(answer).await
    }

    async fn send(&self, event: Event) -> Sent {
        self.send_event(event).await
    }

    async fn stored(&self, sent: &mut Sent) -> Result<u64, PublishError> {
        sent.stored(self).await
    }

    async fn publish(&self, event: &Event) -> Result<u64, PublishError> {
        self.publish_event_at(event).await
    }

    async fn tell(&self, event: &Event) {
        self.tell_event(event).await;
    }

    async fn tag_owner(&self, reference: &Reference) -> Result<Option<OwnerEntry>, RecordError> {
        self.tags().read(reference).await
    }

    async fn enter_owner(&self, owner: &TagOwner, revision: u64) -> Result<(), RecordError> {
        self.tags().enter(owner, revision).await
    }

    async fn bury(&self, build: &Build) -> Result<(), PublishError> {
        Queue::bury(self, build).await
    }

    async fn bury_delivery(
        &self,
        delivery: &Delivery,
        why: &DeliveryError,
    ) -> Result<(), PublishError> {
        self.bury_message(delivery, why).await
    }

    async fn letter(
        &self,
        project: &ProjectName,
        build: &str,
    ) -> Result<Option<DeadLetter>, ReadError> {
        self.dead_letter(project, build).await
    }

    async fn drop_letter(&self, letter: &DeadLetter) -> Result<(), QueryError> {
        Queue::drop_letter(self, letter).await
    }

    async fn announce_cancel(&self, build: BuildId) -> Result<(), ControlError> {
        Queue::announce_cancel(self, build).await
    }

    async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(WorkerView, Duration)>, RecordError> {
        Queue::worker(self, worker).await
    }

    fn reconnected_within(&self, period: Duration) -> bool {
        Queue::reconnected_within(self, period)
    }
}
