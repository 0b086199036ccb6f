// SPDX-License-Identifier: Apache-2.0

//! A server in memory and a real one side by side: each operation is done on both and compared.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use slipway_proto::api::WorkerView;
use slipway_proto::event::Event;
use slipway_proto::{
    Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Reference, Timestamp, WorkerId,
};
use slipway_queue::control::ControlError;
use slipway_queue::dead::DeadLetter;
use slipway_queue::delivery::{self, Answer, DeliveryError, Unconfirmed};
use slipway_queue::protocol::Operations;
use slipway_queue::publish::Stored;
use slipway_queue::pull::BuildsConsumer;
use slipway_queue::read::ReadError;
use slipway_queue::requests::RequeueError;
use slipway_queue::tag::{OwnerEntry, TagOwner};
use slipway_queue::topology::Limits;
use slipway_queue::{NatsConfig, PublishError, QueryError, Queue, Record, RecordError};

use super::memory::{Delivery, Memory};
use super::server::{Server, Taken};

/// A server may say that nothing waits just after it stored something.
const LOOKS: usize = 3;
/// More than the few messages of one sequence take.
const STREAM_BYTES: i64 = 16 << 20;

/// A server in memory and a real one, with streams of its own for one sequence.
pub(crate) struct Both {
    memory: Memory,
    real: Queue,
    consumer: BuildsConsumer,
}

impl Both {
    /// Connects, and makes streams under a prefix that nobody else has.
    pub(crate) async fn open(url: &str, prefix: &str, capacity: usize) -> Self {
        let (nats_url, prefix) = (url.into(), prefix.parse().expect("a prefix"));
        let config = NatsConfig { nats_url, prefix, ..NatsConfig::default() };
        let real = Queue::connect(&config, "model").await.expect("NATS is there");
        let queue_messages = i64::try_from(capacity).expect("a small number");
        // The server sets aside as much as a stream may come to take.
        let limits = Limits {
            queue_messages,
            queue_bytes: STREAM_BYTES,
            logs_bytes: STREAM_BYTES,
            ..Limits::default()
        };
        real.ensure_topology(&limits).await.expect("JetStream takes the streams");
        let pool = PoolName::default();
        let consumer = real.builds_consumer(&pool, Priority::Normal).await;
        let consumer = consumer.expect("the consumer is there");
        Self { memory: Memory::new(capacity), real, consumer }
    }

    async fn read_events(&self) -> Vec<Arc<Event>> {
        let reader = self.real.read_events(None, 0).await.expect("NATS answers");
        let parse = |payload: &[u8]| serde_json::from_slice(payload).expect("an event");
        let events = reader
            .until_caught_up()
            .map(|message| Arc::new(parse(&message.expect("NATS answers").payload)));
        events.collect().await
    }
}

/// Requires that an operation comes out the same on both, by what a protocol can tell apart.
fn same<T, U: Debug + PartialEq>(what: &str, memory: T, real: &T, outcome: impl Fn(&T) -> U) -> T {
    let (model, real) = (outcome(&memory), outcome(real));
    assert_eq!(model, real, "{what}: the model (left) is not what the server does");
    memory
}

/// What a write to a bucket comes to.
fn written<T: Clone>(outcome: &Result<T, RecordError>) -> Option<T> {
    match outcome {
        Ok(written) => Some(written.clone()),
        Err(RecordError::Conflict) => None,
        Err(error) => panic!("the bucket does not answer: {error}"),
    }
}

fn by_content(record: &Record) -> (Build, u64) {
    (record.build.clone(), record.revision)
}

/// What putting a request into the queue comes to; `None` when the queue is full.
fn queued(outcome: &Result<Stored, PublishError>) -> Option<Stored> {
    match outcome {
        Ok(stored) => Some(*stored),
        Err(PublishError::Full(_)) => None,
        Err(error) => panic!("the queue does not answer: {error}"),
    }
}

fn answered<T: Clone, E: std::error::Error>(outcome: &Result<T, E>) -> T {
    match outcome {
        Ok(answer) => answer.clone(),
        Err(error) => panic!("NATS does not answer: {error}"),
    }
}

impl Operations for Both {
    type Creating = Build;
    type Sent = Event;
    type Delivery = (Delivery, delivery::Delivery);

    fn now(&self) -> Timestamp {
        unreachable!("each actor has a clock of its own")
    }

    async fn pause(&self, _period: Duration) {}

    async fn begin_create(&self, build: Build) -> Build {
        build
    }

    async fn finish_create(&self, build: Build) -> Result<Record, RecordError> {
        let memory = self.memory.create(build.clone()).await;
        let real = Operations::create(&self.real, build).await;
        same("create", memory, &real, |outcome| written(outcome).as_ref().map(by_content))
    }

    async fn update(&self, next: Build, revision: u64) -> Result<Record, RecordError> {
        let memory = self.memory.update(next.clone(), revision).await;
        let real = self.real.update(next, revision).await;
        same("update", memory, &real, |outcome| written(outcome).as_ref().map(by_content))
    }

    async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        let memory = self.memory.delete(record).await;
        let real = self.real.delete(record).await;
        same("delete", memory, &real, written)
    }

    async fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        let memory = self.memory.record(project, build).await;
        let real = Operations::record(&self.real, project, build).await;
        same("record", memory, &real, |outcome| answered(outcome).as_ref().map(by_content))
    }

    async fn enqueue(
        &self,
        build: &Build,
        traceparent: Option<&str>,
    ) -> Result<Stored, PublishError> {
        let memory = self.memory.enqueue(build, traceparent).await;
        let real = Operations::enqueue(&self.real, build, traceparent).await;
        same("enqueue", memory, &real, queued)
    }

    async fn requeue(&self, build: &Build) -> Result<(), RequeueError> {
        self.memory.requeue(build).await
    }

    async fn holds(&self, request: &BuildRequest) -> Result<bool, QueryError> {
        let memory = self.memory.holds(request).await;
        same("holds", memory, &Operations::holds(&self.real, request).await, answered)
    }

    async fn remove_request(&self, request: &BuildRequest) -> Result<(), QueryError> {
        let memory = self.memory.remove_request(request).await;
        let real = Operations::remove_request(&self.real, request).await;
        // Until it is asked, nats-server 2.9.10 counts what was removed as waiting, and lets a fetch
        // wait for it.
        self.consumer.recount().await.expect("NATS answers");
        same("remove_request", memory, &real, answered)
    }

    async fn all_in_queue(&self) -> Result<BTreeSet<BuildId>, QueryError> {
        let memory = self.memory.all_in_queue().await;
        same("all_in_queue", memory, &Operations::all_in_queue(&self.real).await, answered)
    }

    async fn stranded(&self) -> Result<BTreeSet<(PoolName, Priority)>, QueryError> {
        self.memory.stranded().await
    }

    fn is_repeated(&self, (memory, real): &Self::Delivery) -> bool {
        let (memory, real) = (self.memory.is_repeated(memory), real.is_repeated());
        same("is_repeated", memory, &real, |repeated| *repeated)
    }

    async fn answer(&self, delivery: &Self::Delivery, answer: Answer) -> Result<(), Unconfirmed> {
        let (memory, real) = delivery;
        // What waits for its time comes back at once.
        let answer = match answer {
            Answer::GiveBack(_) => Answer::GiveBack(None),
            answer => answer,
        };
        let memory = self.memory.answer(memory, answer).await;
        same("answer", memory, &real.answer(answer).await, answered)
    }

    async fn send(&self, event: Event) -> Event {
        event
    }

    async fn stored(&self, sent: &mut Event) -> Result<u64, PublishError> {
        self.publish(sent).await
    }

    async fn publish(&self, event: &Event) -> Result<u64, PublishError> {
        let memory = self.memory.publish(event).await;
        same(&event.id, memory, &self.real.publish(event).await, answered)
    }

    async fn tell(&self, _event: &Event) {}

    async fn tag_owner(&self, reference: &Reference) -> Result<Option<OwnerEntry>, RecordError> {
        let memory = self.memory.tag_owner(reference).await;
        same("tag_owner", memory, &self.real.tag_owner(reference).await, answered)
    }

    async fn enter_owner(&self, owner: &TagOwner, revision: u64) -> Result<(), RecordError> {
        let memory = self.memory.enter_owner(owner, revision).await;
        same("enter_owner", memory, &self.real.enter_owner(owner, revision).await, written)
    }

    async fn bury(&self, build: &Build) -> Result<(), PublishError> {
        let memory = self.memory.bury(build).await;
        same("bury", memory, &Operations::bury(&self.real, build).await, answered)
    }

    async fn bury_delivery(
        &self,
        delivery: &Self::Delivery,
        why: &DeliveryError,
    ) -> Result<(), PublishError> {
        self.memory.bury_delivery(&delivery.0, why).await
    }

    async fn letter(
        &self,
        project: &ProjectName,
        build: &str,
    ) -> Result<Option<DeadLetter>, ReadError> {
        let memory = self.memory.letter(project, build).await;
        let real = self.real.letter(project, build).await;
        // When it died is the server's to say.
        same("letter", memory, &real, |outcome| {
            answered(outcome).map(|letter| DeadLetter { died_at: Timestamp::UNIX_EPOCH, ..letter })
        })
    }

    async fn drop_letter(&self, letter: &DeadLetter) -> Result<(), QueryError> {
        let memory = self.memory.drop_letter(letter).await;
        same("drop_letter", memory, &Operations::drop_letter(&self.real, letter).await, answered)
    }

    async fn announce_cancel(&self, build: BuildId) -> Result<(), ControlError> {
        self.memory.announce_cancel(build).await
    }

    async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(WorkerView, Duration)>, RecordError> {
        self.memory.worker(worker).await
    }

    fn reconnected_within(&self, period: Duration) -> bool {
        self.memory.reconnected_within(period)
    }
}

impl Server for Both {
    async fn take(&self) -> Option<Taken<Self::Delivery>> {
        let memory = self.memory.take().await;
        let mut real = None;
        for _ in 0..=LOOKS {
            real = self.consumer.take_one().await.expect("NATS answers");
            if real.is_some() {
                break;
            }
        }
        let seen = real.as_ref().map(|real| (real.sequence(), real.is_repeated()));
        let expected =
            memory.as_ref().map(|taken| (taken.sequence, self.memory.is_repeated(&taken.delivery)));
        assert_eq!(expected, seen, "take: the model (left) is not what the server does");
        let (memory, real) = (memory?, real?);
        let delivered = real.read().expect("a request");
        assert_eq!(memory.delivered.request.build, delivered.request.build);
        assert_eq!(memory.delivered.order, delivered.order);
        let (sequence, delivery) = (memory.sequence, (memory.delivery, real));
        Some(Taken { delivery, sequence, delivered })
    }

    fn sequence(&self, delivery: &Self::Delivery) -> u64 {
        self.memory.sequence(&delivery.0)
    }

    async fn events(&self) -> Vec<Arc<Event>> {
        let memory = self.memory.events().await;
        let mut real = self.read_events().await;
        // A server may count one less than it has just stored.
        for _ in 0..LOOKS {
            if real.len() >= memory.len() {
                break;
            }
            real = self.read_events().await;
        }
        same("events", memory, &real, Vec::clone)
    }

    async fn let_window_pass(&self) {
        unreachable!("two minutes are too long for a test");
    }
}
