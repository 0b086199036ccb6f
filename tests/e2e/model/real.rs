// SPDX-License-Identifier: Apache-2.0

//! The same operations on a real server, and a server that does each on both and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt as _;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, PoolName, Priority, ProjectName, Reference};
use slipway_queue::dead::DeadLetter;
use slipway_queue::delivery::{self, Answer};
use slipway_queue::publish::Stored;
use slipway_queue::pull::BuildsConsumer;
use slipway_queue::tag::TagOwner;
use slipway_queue::topology::Limits;
use slipway_queue::{PublishError, Queue, QueueOptions, Record, RecordError};

use super::world::{Delivery, Enqueued, Letter, Model, Server};

/// A server may say that nothing waits just after it stored something.
const LOOKS: usize = 3;
/// More than the few messages of one sequence take.
const STREAM_BYTES: i64 = 16 << 20;

/// A real nats-server, with streams of its own for one sequence.
pub(crate) struct Real {
    queue: Queue,
    project: ProjectName,
    consumer: BuildsConsumer,
    deliveries: Vec<delivery::Delivery>,
    letters: BTreeMap<u64, DeadLetter>,
    last_event: u64,
}

impl Real {
    /// Connects, and makes streams under a prefix that nobody else has.
    pub(crate) async fn open(
        url: &str,
        prefix: &str,
        project: &ProjectName,
        capacity: usize,
    ) -> Self {
        let queue = Queue::connect(QueueOptions {
            url: url.to_owned(),
            credentials: None,
            client_name: "model".to_owned(),
            prefix: prefix.parse().expect("a prefix"),
            replicas: 1,
        });
        let queue = queue.await.expect("NATS is there");
        let queue_messages = i64::try_from(capacity).expect("a small number");
        // The server sets aside as much as a stream may come to take.
        let limits = Limits {
            queue_messages,
            queue_bytes: STREAM_BYTES,
            logs_bytes: STREAM_BYTES,
            ..Limits::default()
        };
        queue.ensure_topology(&limits).await.expect("JetStream takes the streams");
        let pool = PoolName::default();
        let consumer = queue.builds_consumer(&pool, Priority::Normal).await;
        let consumer = consumer.expect("the consumer is there");
        Self {
            queue,
            project: project.clone(),
            consumer,
            deliveries: Vec::new(),
            letters: BTreeMap::new(),
            last_event: 0,
        }
    }

    async fn fetch(&self) -> Option<delivery::Delivery> {
        self.consumer.take_one().await.expect("NATS answers")
    }

    async fn answer(&self, delivery: Delivery, answer: Answer) {
        self.deliveries[delivery.number].answer(answer).await.expect("NATS confirms");
    }
}

/// Whether a write found the revision it named.
fn written(outcome: Result<Record, RecordError>) -> Option<Record> {
    match outcome {
        Ok(record) => Some(record),
        Err(RecordError::Conflict) => None,
        Err(error) => panic!("the bucket does not answer: {error}"),
    }
}

impl Server for Real {
    async fn create(&mut self, build: Build) -> Option<Record> {
        written(self.queue.records().create(build).await)
    }

    async fn update(&mut self, next: Build, revision: u64) -> Option<Record> {
        written(self.queue.records().update(next, revision).await)
    }

    async fn delete(&mut self, record: &Record) -> bool {
        match self.queue.records().delete(record).await {
            Ok(()) => true,
            Err(RecordError::Conflict) => false,
            Err(error) => panic!("the bucket does not answer: {error}"),
        }
    }

    async fn read(&mut self, build: BuildId) -> Option<Record> {
        self.queue.records().get(&self.project, build).await.expect("NATS answers")
    }

    async fn enqueue(&mut self, build: &Build) -> Enqueued {
        match self.queue.enqueue(build, None).await {
            Ok(Stored::Now) => Enqueued::Now,
            Ok(Stored::Before) => Enqueued::Before,
            Ok(Stored::Repeated) => Enqueued::Repeated,
            Err(PublishError::Full(_)) => Enqueued::Full,
            Err(error) => panic!("the queue does not answer: {error}"),
        }
    }

    async fn take(&mut self) -> Option<Delivery> {
        let mut message = self.fetch().await;
        for _ in 0..LOOKS {
            if message.is_some() {
                break;
            }
            message = self.fetch().await;
        }
        let message = message?;
        let delivered = message.read().expect("a request");
        let (sequence, count) = (message.sequence(), message.count());
        self.deliveries.push(message);
        Some(Delivery {
            number: self.deliveries.len() - 1,
            sequence,
            build: delivered.request.build,
            order: delivered.order,
            accepted_at: delivered.accepted_at,
            count,
        })
    }

    async fn acknowledge(&mut self, delivery: Delivery) {
        self.answer(delivery, Answer::Done).await;
    }

    async fn give_back(&mut self, delivery: Delivery) {
        self.answer(delivery, Answer::GiveBack(None)).await;
    }

    async fn remove_request(&mut self, build: &Build) {
        self.queue.remove_request(&build.request).await.expect("NATS answers");
        // Until it is asked, nats-server 2.9.10 counts what was removed as waiting, and lets a fetch
        // wait for it.
        self.consumer.recount().await.expect("NATS answers");
    }

    async fn in_queue(&mut self) -> BTreeSet<BuildId> {
        self.queue.builds_in_queue(&self.project).await.expect("NATS answers")
    }

    async fn publish(&mut self, event: Event) -> bool {
        let sequence = self.queue.publish_event_at(&event).await.expect("NATS answers");
        let new = sequence > self.last_event;
        self.last_event = self.last_event.max(sequence);
        new
    }

    async fn events(&mut self) -> Vec<Arc<Event>> {
        let reader = self.queue.read_events(None, 0).await.expect("NATS answers");
        let messages = reader.until_caught_up();
        let parse = |payload: &[u8]| serde_json::from_slice(payload).expect("an event");
        let events =
            messages.map(|message| Arc::new(parse(&message.expect("NATS answers").payload)));
        events.collect().await
    }

    async fn owner(&mut self, reference: &Reference) -> Option<TagOwner> {
        self.queue.tags().owner(reference).await.expect("NATS answers")
    }

    async fn claim_tag(&mut self, claimant: &TagOwner) -> TagOwner {
        self.queue.tags().claim(claimant).await.expect("NATS answers")
    }

    async fn bury(&mut self, build: &Build) {
        self.queue.bury(build).await.expect("NATS answers");
    }

    async fn letter(&mut self, build: BuildId) -> Option<Letter> {
        let letter = self.queue.dead_letter(&self.project, &build.to_string()).await;
        let letter = letter.expect("NATS answers")?;
        let (sequence, epoch) = (letter.sequence, letter.epoch);
        self.letters.insert(sequence, letter);
        Some(Letter { build, sequence, epoch })
    }

    async fn drop_letter(&mut self, letter: Letter) {
        let letter = &self.letters[&letter.sequence];
        self.queue.drop_letter(letter).await.expect("NATS answers");
    }

    async fn window_passes(&mut self) {
        unreachable!("two minutes are too long for a test");
    }
}

/// The model and a real server side by side.
pub(crate) struct Both {
    model: Model,
    real: Real,
}

impl Both {
    /// Starts with two servers that hold nothing.
    pub(crate) fn new(model: Model, real: Real) -> Self {
        Self { model, real }
    }
}

/// Returns the outcome of an operation if it is the same on both.
fn same<T: Debug + PartialEq>(what: &str, model: T, real: &T) -> T {
    assert_eq!(&model, real, "{what}: the model (left) is not what the server does");
    model
}

fn same_record(what: &str, model: Option<Record>, real: Option<Record>) -> Option<Record> {
    let revision = |record: &Option<Record>| record.as_ref().map(|record| record.revision);
    same(what, revision(&model), &revision(&real));
    let build = |record: Option<Record>| record.map(|record| record.build);
    same(what, build(model.clone()), &build(real));
    model
}

impl Server for Both {
    async fn create(&mut self, build: Build) -> Option<Record> {
        let model = self.model.create(build.clone()).await;
        same_record("create", model, self.real.create(build).await)
    }

    async fn update(&mut self, next: Build, revision: u64) -> Option<Record> {
        let model = self.model.update(next.clone(), revision).await;
        same_record("update", model, self.real.update(next, revision).await)
    }

    async fn delete(&mut self, record: &Record) -> bool {
        same("delete", self.model.delete(record).await, &self.real.delete(record).await)
    }

    async fn read(&mut self, build: BuildId) -> Option<Record> {
        same_record("read", self.model.read(build).await, self.real.read(build).await)
    }

    async fn enqueue(&mut self, build: &Build) -> Enqueued {
        same("enqueue", self.model.enqueue(build).await, &self.real.enqueue(build).await)
    }

    async fn take(&mut self) -> Option<Delivery> {
        same("take", self.model.take().await, &self.real.take().await)
    }

    async fn acknowledge(&mut self, delivery: Delivery) {
        self.model.acknowledge(delivery).await;
        self.real.acknowledge(delivery).await;
    }

    async fn give_back(&mut self, delivery: Delivery) {
        self.model.give_back(delivery).await;
        self.real.give_back(delivery).await;
    }

    async fn remove_request(&mut self, build: &Build) {
        self.model.remove_request(build).await;
        self.real.remove_request(build).await;
    }

    async fn in_queue(&mut self) -> BTreeSet<BuildId> {
        same("in_queue", self.model.in_queue().await, &self.real.in_queue().await)
    }

    async fn publish(&mut self, event: Event) -> bool {
        let id = event.id.clone();
        let model = self.model.publish(event.clone()).await;
        same(&id, model, &self.real.publish(event).await)
    }

    async fn events(&mut self) -> Vec<Arc<Event>> {
        same("events", self.model.events().await, &self.real.events().await)
    }

    async fn owner(&mut self, reference: &Reference) -> Option<TagOwner> {
        same("owner", self.model.owner(reference).await, &self.real.owner(reference).await)
    }

    async fn claim_tag(&mut self, claimant: &TagOwner) -> TagOwner {
        let model = self.model.claim_tag(claimant).await;
        same("claim_tag", model, &self.real.claim_tag(claimant).await)
    }

    async fn bury(&mut self, build: &Build) {
        self.model.bury(build).await;
        self.real.bury(build).await;
    }

    async fn letter(&mut self, build: BuildId) -> Option<Letter> {
        same("letter", self.model.letter(build).await, &self.real.letter(build).await)
    }

    async fn drop_letter(&mut self, letter: Letter) {
        self.model.drop_letter(letter).await;
        self.real.drop_letter(letter).await;
    }

    async fn window_passes(&mut self) {
        self.model.window_passes().await;
        self.real.window_passes().await;
    }
}
