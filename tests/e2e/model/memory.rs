// SPDX-License-Identifier: Apache-2.0

//! A server in memory: what JetStream does, as far as Slipway relies on it.
//!
//! It holds no rule of a protocol: it compares revisions, refuses copies, and delivers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_proto::api::WorkerView;
use slipway_proto::event::Event;
use slipway_proto::state::Epoch;
use slipway_proto::{
    Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Reference, Timestamp, WorkerId,
    codec,
};
use slipway_queue::control::ControlError;
use slipway_queue::dead::DeadLetter;
use slipway_queue::delivery::{Answer, Delivered, DeliveryError, Unconfirmed};
use slipway_queue::protocol::Operations;
use slipway_queue::publish::Stored;
use slipway_queue::read::ReadError;
use slipway_queue::requests::RequeueError;
use slipway_queue::tag::{OwnerEntry, TagOwner};
use slipway_queue::{PublishError, QueryError, Record, RecordError};

use super::server::{Server, Taken};

/// A server in memory.
#[derive(Debug)]
pub(crate) struct Memory(Mutex<State>);

#[derive(Debug)]
struct State {
    records: BTreeMap<BuildId, Slot>,
    last_revision: u64,
    queue: Queue,
    events: Vec<Arc<Event>>,
    /// The sequence of each event whose id is remembered.
    event_ids: HashMap<String, u64>,
    owners: BTreeMap<Reference, OwnerEntry>,
    last_owner: u64,
    letters: Vec<DeadLetter>,
    last_letter: u64,
    letter_ids: BTreeSet<(BuildId, Epoch)>,
}

/// A key of the bucket; one that was deleted has a revision all the same.
#[derive(Debug)]
struct Slot {
    build: Option<Build>,
    revision: u64,
}

/// The work queue and its one consumer.
#[derive(Debug)]
struct Queue {
    capacity: usize,
    messages: BTreeMap<u64, Delivered>,
    last_sequence: u64,
    ids: BTreeSet<(BuildId, Epoch)>,
    /// The first message that was never delivered.
    next: u64,
    /// How often each message that is not acknowledged was delivered.
    delivered: BTreeMap<u64, u64>,
    again: VecDeque<u64>,
}

/// A message as it was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Its place in the queue.
    sequence: u64,
    /// How often it was delivered.
    count: u64,
}

impl Memory {
    /// Makes a server whose queue holds so many requests.
    pub(crate) fn new(capacity: usize) -> Self {
        let queue = Queue {
            capacity,
            messages: BTreeMap::new(),
            last_sequence: 0,
            ids: BTreeSet::new(),
            next: 1,
            delivered: BTreeMap::new(),
            again: VecDeque::new(),
        };
        Self(Mutex::new(State {
            records: BTreeMap::new(),
            last_revision: 0,
            queue,
            events: Vec::new(),
            event_ids: HashMap::new(),
            owners: BTreeMap::new(),
            last_owner: 0,
            letters: Vec::new(),
            last_letter: 0,
            letter_ids: BTreeSet::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, id: BuildId, build: Option<Build>) -> u64 {
        self.last_revision += 1;
        self.records.insert(id, Slot { build, revision: self.last_revision });
        self.last_revision
    }
}

fn full() -> PublishError {
    PublishError::Full("maximum messages exceeded".into())
}

impl Operations for Memory {
    type Creating = Build;
    type Sent = Event;
    type Delivery = Delivery;

    fn now(&self) -> Timestamp {
        unreachable!("each actor has a clock of its own")
    }

    async fn pause(&self, _period: Duration) {}

    async fn begin_create(&self, build: Build) -> Build {
        build
    }

    async fn finish_create(&self, mut build: Build) -> Result<Record, RecordError> {
        let mut state = self.state();
        let id = build.request.build;
        if state.records.get(&id).is_some_and(|slot| slot.build.is_some()) {
            return Err(RecordError::Conflict);
        }
        let revision = state.write(id, Some(build.clone()));
        if build.order == 0 {
            build.order = revision;
        }
        Ok(Record { build, revision })
    }

    async fn update(&self, next: Build, revision: u64) -> Result<Record, RecordError> {
        let mut state = self.state();
        let id = next.request.build;
        if state.records.get(&id).map_or(0, |slot| slot.revision) != revision {
            return Err(RecordError::Conflict);
        }
        let revision = state.write(id, Some(next.clone()));
        Ok(Record { build: next, revision })
    }

    async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        let mut state = self.state();
        let id = record.build.request.build;
        if state.records.get(&id).is_none_or(|slot| slot.revision != record.revision) {
            return Err(RecordError::Conflict);
        }
        state.write(id, None);
        Ok(())
    }

    async fn record(
        &self,
        _project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        let state = self.state();
        let Some(slot) = state.records.get(&build) else { return Ok(None) };
        let Some(mut build) = slot.build.clone() else { return Ok(None) };
        if build.order == 0 {
            build.order = slot.revision;
        }
        Ok(Some(Record { build, revision: slot.revision }))
    }

    async fn enqueue(
        &self,
        build: &Build,
        _traceparent: Option<&str>,
    ) -> Result<Stored, PublishError> {
        let queue = &mut self.state().queue;
        let id = build.request.build;
        if queue.ids.contains(&(id, build.state.epoch)) {
            return Ok(Stored::Repeated);
        }
        if queue.messages.values().any(|message| message.request.build == id) {
            return Ok(Stored::Before);
        }
        if queue.messages.len() >= queue.capacity {
            return Err(full());
        }
        queue.last_sequence += 1;
        let Build { request, submission, accepted_at, order, .. } = build.clone();
        let message = Delivered { request, submission, accepted_at, order };
        queue.messages.insert(queue.last_sequence, message);
        queue.ids.insert((id, build.state.epoch));
        Ok(Stored::Now)
    }

    async fn requeue(&self, _build: &Build) -> Result<(), RequeueError> {
        unreachable!("this server delivers what it holds")
    }

    async fn holds(&self, request: &BuildRequest) -> Result<bool, QueryError> {
        let queue = &self.state().queue;
        Ok(queue.messages.values().any(|message| message.request.build == request.build))
    }

    async fn remove_request(&self, request: &BuildRequest) -> Result<(), QueryError> {
        let queue = &mut self.state().queue;
        queue.messages.retain(|_, message| message.request.build != request.build);
        Ok(())
    }

    async fn all_in_queue(&self) -> Result<BTreeSet<BuildId>, QueryError> {
        let queue = &self.state().queue;
        Ok(queue.messages.values().map(|message| message.request.build).collect())
    }

    async fn stranded(&self) -> Result<BTreeSet<(PoolName, Priority)>, QueryError> {
        Ok(BTreeSet::new())
    }

    fn is_repeated(&self, delivery: &Delivery) -> bool {
        delivery.count > 1
    }

    async fn answer(&self, delivery: &Delivery, answer: Answer) -> Result<(), Unconfirmed> {
        let queue = &mut self.state().queue;
        let sequence = delivery.sequence;
        match answer {
            Answer::Done | Answer::Reject if queue.delivered.remove(&sequence).is_some() => {
                queue.messages.remove(&sequence);
                queue.again.retain(|again| *again != sequence);
            }
            Answer::GiveBack(_)
                if queue.delivered.contains_key(&sequence) && !queue.again.contains(&sequence) =>
            {
                queue.again.push_back(sequence);
            }
            _ => {}
        }
        Ok(())
    }

    async fn send(&self, event: Event) -> Event {
        event
    }

    async fn stored(&self, sent: &mut Event) -> Result<u64, PublishError> {
        self.publish(sent).await
    }

    async fn publish(&self, event: &Event) -> Result<u64, PublishError> {
        let mut state = self.state();
        if let Some(sequence) = state.event_ids.get(&event.id) {
            return Ok(*sequence);
        }
        state.events.push(Arc::new(event.clone()));
        let sequence = state.events.len() as u64;
        state.event_ids.insert(event.id.clone(), sequence);
        Ok(sequence)
    }

    async fn tell(&self, _event: &Event) {}

    async fn tag_owner(&self, reference: &Reference) -> Result<Option<OwnerEntry>, RecordError> {
        Ok(self.state().owners.get(reference).cloned())
    }

    async fn enter_owner(&self, owner: &TagOwner, revision: u64) -> Result<(), RecordError> {
        let mut state = self.state();
        if state.owners.get(&owner.reference).map_or(0, |entry| entry.revision) != revision {
            return Err(RecordError::Conflict);
        }
        state.last_owner += 1;
        let entry = OwnerEntry { owner: owner.clone(), revision: state.last_owner };
        state.owners.insert(owner.reference.clone(), entry);
        Ok(())
    }

    async fn bury(&self, build: &Build) -> Result<(), PublishError> {
        let mut state = self.state();
        let request = &build.request;
        if state.letter_ids.insert((request.build, build.state.epoch)) {
            state.last_letter += 1;
            let letter = DeadLetter {
                sequence: state.last_letter,
                build: request.build.to_string(),
                project: request.project.to_string(),
                pool: request.pool.clone(),
                reason: build.failure().map_or_else(String::new, ToString::to_string),
                died_at: Timestamp::UNIX_EPOCH,
                epoch: build.state.epoch,
                replays: build.replays,
                submission: Some(build.submission),
                accepted_at: Some(build.accepted_at),
                payload: codec::encode(request).expect("it encodes").into(),
            };
            state.letters.push(letter);
        }
        Ok(())
    }

    async fn bury_delivery(
        &self,
        _delivery: &Delivery,
        _why: &DeliveryError,
    ) -> Result<(), PublishError> {
        unreachable!("this server delivers what it was sent")
    }

    async fn letter(
        &self,
        _project: &ProjectName,
        build: &str,
    ) -> Result<Option<DeadLetter>, ReadError> {
        Ok(self.state().letters.iter().rev().find(|letter| letter.build == build).cloned())
    }

    async fn drop_letter(&self, dropped: &DeadLetter) -> Result<(), QueryError> {
        self.state()
            .letters
            .retain(|letter| letter.build != dropped.build || letter.sequence > dropped.sequence);
        Ok(())
    }

    async fn announce_cancel(&self, _build: BuildId) -> Result<(), ControlError> {
        Ok(())
    }

    async fn worker(
        &self,
        _worker: &WorkerId,
    ) -> Result<Option<(WorkerView, Duration)>, RecordError> {
        // Whatever an announcement is to prevent may happen.
        Ok(None)
    }

    fn reconnected_within(&self, _period: Duration) -> bool {
        false
    }
}

impl Server for Memory {
    async fn take(&self) -> Option<Taken<Delivery>> {
        self.state().queue.take()
    }

    fn sequence(&self, delivery: &Delivery) -> u64 {
        delivery.sequence
    }

    async fn events(&self) -> Vec<Arc<Event>> {
        self.state().events.clone()
    }

    async fn let_window_pass(&self) {
        let mut state = self.state();
        state.queue.ids.clear();
        state.event_ids.clear();
        state.letter_ids.clear();
    }
}

impl Queue {
    fn take(&mut self) -> Option<Taken<Delivery>> {
        while let Some(sequence) = self.again.pop_front() {
            if self.messages.contains_key(&sequence) {
                return Some(self.deliver(sequence));
            }
        }
        let (sequence, _) = self.messages.range(self.next..).next()?;
        let sequence = *sequence;
        self.next = sequence + 1;
        Some(self.deliver(sequence))
    }

    fn deliver(&mut self, sequence: u64) -> Taken<Delivery> {
        let count = self.delivered.entry(sequence).or_default();
        *count += 1;
        let delivery = Delivery { sequence, count: *count };
        Taken { delivery, sequence, delivered: self.messages[&sequence].clone() }
    }
}
