// SPDX-License-Identifier: Apache-2.0

//! The durable operations that the protocols are made of.
//!
//! Each is atomic, can be repeated, and has every outcome that a protocol must distinguish. "The
//! server does not answer" is one of them, and leaves open whether the operation took place.
//!
//! Two things implement them: [`Queue`](crate::Queue) on JetStream, and the model test in memory.
//! Calls are dispatched statically, and where the server's answer need not be awaited an operation
//! has two halves (`begin_create` and `finish_create`, `send` and `stored`), so that the seam costs
//! neither a round trip nor a copy.

use std::collections::BTreeSet;
use std::time::Duration;

use slipway_proto::api::WorkerView;
use slipway_proto::event::Event;
use slipway_proto::{
    Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Reference, Timestamp, WorkerId,
};

use crate::control::ControlError;
use crate::dead::DeadLetter;
use crate::delivery::{Answer, DeliveryError, Unconfirmed};
use crate::publish::Stored;
use crate::read::ReadError;
use crate::requests::RequeueError;
use crate::tag::{OwnerEntry, TagOwner};
use crate::{PublishError, QueryError, Record, RecordError};

/// The durable operations, and the clock.
pub trait Operations: Send + Sync {
    /// A first record that was sent and may be stored.
    type Creating: Send;
    /// An event that was sent and may be stored.
    type Sent: Send + Sync;
    /// A request that was delivered to this process.
    type Delivery: Send + Sync;

    /// Returns the time. Decisions take it from here, so that a test can move it.
    fn now(&self) -> Timestamp;

    /// Waits before something is tried again.
    fn pause(&self, period: Duration) -> impl Future<Output = ()> + Send;

    /// Sends the first record of a build. Builds are accepted in the order of these calls.
    fn begin_create(&self, build: Build) -> impl Future<Output = Self::Creating> + Send;

    /// Waits until a first record is stored; [`RecordError::Conflict`] when there is one already.
    fn finish_create(
        &self,
        creating: Self::Creating,
    ) -> impl Future<Output = Result<Record, RecordError>> + Send;

    /// Writes the first record of a build; [`RecordError::Conflict`] when there is one already.
    fn create(&self, build: Build) -> impl Future<Output = Result<Record, RecordError>> + Send {
        async {
            let creating = self.begin_create(build).await;
            self.finish_create(creating).await
        }
    }

    /// Writes a record if it still has a revision; [`RecordError::Conflict`] when it has another.
    fn update(
        &self,
        next: Build,
        revision: u64,
    ) -> impl Future<Output = Result<Record, RecordError>> + Send;

    /// Removes a record if it still has its revision; [`RecordError::Conflict`] when it has another.
    fn delete(&self, record: &Record) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// Reads a record.
    fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> impl Future<Output = Result<Option<Record>, RecordError>> + Send;

    /// Puts a build's request into the queue, unless it is there.
    fn enqueue(
        &self,
        build: &Build,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<Stored, PublishError>> + Send;

    /// Replaces a build's request in the queue by a new copy.
    fn requeue(&self, build: &Build) -> impl Future<Output = Result<(), RequeueError>> + Send;

    /// Returns whether the queue holds a build's request, waiting or delivered.
    fn holds(
        &self,
        request: &BuildRequest,
    ) -> impl Future<Output = Result<bool, QueryError>> + Send;

    /// Takes a build's request out of the queue, also when it is delivered to somebody.
    fn remove_request(
        &self,
        request: &BuildRequest,
    ) -> impl Future<Output = Result<(), QueryError>> + Send;

    /// Lists the builds whose requests are in the queue.
    fn all_in_queue(&self) -> impl Future<Output = Result<BTreeSet<BuildId>, QueryError>> + Send;

    /// Lists the classes that hold requests which the server neither delivers nor counts as waiting.
    fn stranded(
        &self,
    ) -> impl Future<Output = Result<BTreeSet<(PoolName, Priority)>, QueryError>> + Send;

    /// Returns whether a delivery is not the first of its message.
    fn is_repeated(&self, delivery: &Self::Delivery) -> bool;

    /// Answers a delivery, and waits for the server's confirmation.
    fn answer(
        &self,
        delivery: &Self::Delivery,
        answer: Answer,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + Send;

    /// Sends an event. What the same process sends later is stored after it.
    fn send(&self, event: Event) -> impl Future<Output = Self::Sent> + Send;

    /// Makes sure that a sent event is stored, and returns its sequence.
    fn stored(
        &self,
        sent: &mut Self::Sent,
    ) -> impl Future<Output = Result<u64, PublishError>> + Send;

    /// Publishes an event, unless it was published within the server's window for second copies,
    /// and returns its sequence.
    fn publish(&self, event: &Event) -> impl Future<Output = Result<u64, PublishError>> + Send;

    /// Sends an event whose loss does no harm.
    fn tell(&self, event: &Event) -> impl Future<Output = ()> + Send;

    /// Reads the owner of a tag, with the revision that [`Operations::enter_owner`] must name.
    fn tag_owner(
        &self,
        reference: &Reference,
    ) -> impl Future<Output = Result<Option<OwnerEntry>, RecordError>> + Send;

    /// Enters the owner of a tag if its entry still has a revision, 0 if there was none;
    /// [`RecordError::Conflict`] when it has another.
    fn enter_owner(
        &self,
        owner: &TagOwner,
        revision: u64,
    ) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// Writes the dead letter of a failed build, unless it is there.
    fn bury(&self, build: &Build) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Moves a delivered message that is not a request to the dead letters, unchanged.
    fn bury_delivery(
        &self,
        delivery: &Self::Delivery,
        why: &DeliveryError,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Reads the last dead letter of a build.
    fn letter(
        &self,
        project: &ProjectName,
        build: &str,
    ) -> impl Future<Output = Result<Option<DeadLetter>, ReadError>> + Send;

    /// Drops a dead letter, and those of the build before it.
    fn drop_letter(
        &self,
        letter: &DeadLetter,
    ) -> impl Future<Output = Result<(), QueryError>> + Send;

    /// Tells the worker that runs a build, if one does, to look at its record.
    fn announce_cancel(
        &self,
        build: BuildId,
    ) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// Reads a worker's announcement, and how old it is.
    fn worker(
        &self,
        worker: &WorkerId,
    ) -> impl Future<Output = Result<Option<(WorkerView, Duration)>, RecordError>> + Send;

    /// Returns whether a lost connection was made again within the last `period`.
    fn reconnected_within(&self, period: Duration) -> bool;
}
