// SPDX-License-Identifier: Apache-2.0

//! What the protocols stand on: the durable operations of the queue, each with the outcomes that a
//! protocol can tell apart, and a server of them in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use slipway_proto::event::Event;
use slipway_proto::state::Epoch;
use slipway_proto::{Build, BuildId, Reference, Timestamp};
use slipway_queue::Record;
use slipway_queue::tag::TagOwner;

/// What became of a request that was put into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enqueued {
    /// It is in the queue.
    Now,
    /// The build's request stands there already.
    Before,
    /// One of the same id came within the window, and may have been consumed since.
    Repeated,
    /// The queue takes no more.
    Full,
}

/// A request as a worker got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Counts the deliveries of all builds.
    pub(crate) number: usize,
    /// The place of the request in the queue.
    pub(crate) sequence: u64,
    /// The build.
    pub(crate) build: BuildId,
    /// Its place in the order of acceptance.
    pub(crate) order: u64,
    /// When it was accepted.
    pub(crate) accepted_at: Timestamp,
    /// How often this request was delivered.
    pub(crate) count: u64,
}

/// A dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The build.
    pub(crate) build: BuildId,
    /// Its place in the stream.
    pub(crate) sequence: u64,
    /// The claim under which the build failed.
    pub(crate) epoch: Epoch,
}

/// The durable operations that Slipway's protocols are made of. Each is atomic, and none fails but
/// by the outcomes it names: a publish that was not acknowledged is repeated under its id, and is
/// then the same as one that was.
pub(crate) trait Server {
    /// Writes the first record of a build; `None` when there is one.
    async fn create(&mut self, build: Build) -> Option<Record>;
    /// Writes a record that still has its revision; `None` when it has another.
    async fn update(&mut self, next: Build, revision: u64) -> Option<Record>;
    /// Removes a record that still has its revision; returns whether it had.
    async fn delete(&mut self, record: &Record) -> bool;
    /// Reads a record.
    async fn read(&mut self, build: BuildId) -> Option<Record>;
    /// Puts a request into the queue.
    async fn enqueue(&mut self, build: &Build) -> Enqueued;
    /// Takes the next request, if one waits.
    async fn take(&mut self) -> Option<Delivery>;
    /// Acknowledges a request.
    async fn acknowledge(&mut self, delivery: Delivery);
    /// Gives a request back, to be delivered again at once; what also becomes of it when the lease
    /// ends.
    async fn give_back(&mut self, delivery: Delivery);
    /// Takes a request out of the queue, whoever holds it.
    async fn remove_request(&mut self, build: &Build);
    /// Lists the builds whose requests stand in the queue.
    async fn in_queue(&mut self) -> BTreeSet<BuildId>;
    /// Publishes an event; returns whether it is new to the window.
    async fn publish(&mut self, event: Event) -> bool;
    /// Lists all events.
    async fn events(&mut self) -> Vec<Arc<Event>>;
    /// Reads who owns a tag.
    async fn owner(&mut self, reference: &Reference) -> Option<TagOwner>;
    /// Enters an owner unless a later one stands there; returns who owns the tag then.
    async fn claim_tag(&mut self, claimant: &TagOwner) -> TagOwner;
    /// Writes the dead letter of a build.
    async fn bury(&mut self, build: &Build);
    /// Reads the last dead letter of a build.
    async fn letter(&mut self, build: BuildId) -> Option<Letter>;
    /// Drops a dead letter and those of the build before it.
    async fn drop_letter(&mut self, letter: Letter);
    /// Lets so much time pass that ids come to be new again.
    async fn window_passes(&mut self);
}

/// A server in memory: what JetStream does, as far as Slipway relies on it.
#[derive(Debug)]
pub(crate) struct Model {
    records: BTreeMap<BuildId, Slot>,
    last_revision: u64,
    queue: Queue,
    events: Vec<Arc<Event>>,
    event_ids: HashMap<String, usize>,
    owners: BTreeMap<Reference, TagOwner>,
    letters: Vec<Letter>,
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
    messages: BTreeMap<u64, Message>,
    last_sequence: u64,
    ids: BTreeSet<(BuildId, Epoch)>,
    /// The first message that was never delivered.
    next: u64,
    /// How often each message that is not acknowledged was delivered.
    delivered: BTreeMap<u64, u64>,
    again: VecDeque<u64>,
    deliveries: usize,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    build: BuildId,
    order: u64,
    accepted_at: Timestamp,
}

impl Model {
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
            deliveries: 0,
        };
        Self {
            records: BTreeMap::new(),
            last_revision: 0,
            queue,
            events: Vec::new(),
            event_ids: HashMap::new(),
            owners: BTreeMap::new(),
            letters: Vec::new(),
            last_letter: 0,
            letter_ids: BTreeSet::new(),
        }
    }

    fn write(&mut self, id: BuildId, build: Option<Build>) -> u64 {
        self.last_revision += 1;
        self.records.insert(id, Slot { build, revision: self.last_revision });
        self.last_revision
    }
}

impl Server for Model {
    async fn create(&mut self, mut build: Build) -> Option<Record> {
        let id = build.request.build;
        if self.records.get(&id).is_some_and(|slot| slot.build.is_some()) {
            return None;
        }
        let revision = self.write(id, Some(build.clone()));
        if build.order == 0 {
            build.order = revision;
        }
        Some(Record { build, revision })
    }

    async fn update(&mut self, next: Build, revision: u64) -> Option<Record> {
        let id = next.request.build;
        if self.records.get(&id).map_or(0, |slot| slot.revision) != revision {
            return None;
        }
        let revision = self.write(id, Some(next.clone()));
        Some(Record { build: next, revision })
    }

    async fn delete(&mut self, record: &Record) -> bool {
        let id = record.build.request.build;
        let same = self.records.get(&id).is_some_and(|slot| slot.revision == record.revision);
        if same {
            self.write(id, None);
        }
        same
    }

    async fn read(&mut self, build: BuildId) -> Option<Record> {
        let slot = self.records.get(&build)?;
        let mut build = slot.build.clone()?;
        if build.order == 0 {
            build.order = slot.revision;
        }
        Some(Record { build, revision: slot.revision })
    }

    async fn enqueue(&mut self, build: &Build) -> Enqueued {
        let queue = &mut self.queue;
        let id = build.request.build;
        if queue.ids.contains(&(id, build.state.epoch)) {
            return Enqueued::Repeated;
        }
        if queue.messages.values().any(|message| message.build == id) {
            return Enqueued::Before;
        }
        if queue.messages.len() >= queue.capacity {
            return Enqueued::Full;
        }
        queue.last_sequence += 1;
        let message = Message { build: id, order: build.order, accepted_at: build.accepted_at };
        queue.messages.insert(queue.last_sequence, message);
        queue.ids.insert((id, build.state.epoch));
        Enqueued::Now
    }

    async fn take(&mut self) -> Option<Delivery> {
        self.queue.take()
    }

    async fn acknowledge(&mut self, delivery: Delivery) {
        let queue = &mut self.queue;
        let sequence = delivery.sequence;
        if queue.delivered.remove(&sequence).is_some() {
            queue.messages.remove(&sequence);
            queue.again.retain(|again| *again != sequence);
        }
    }

    async fn give_back(&mut self, delivery: Delivery) {
        let queue = &mut self.queue;
        let sequence = delivery.sequence;
        if queue.delivered.contains_key(&sequence) && !queue.again.contains(&sequence) {
            queue.again.push_back(sequence);
        }
    }

    async fn remove_request(&mut self, build: &Build) {
        let id = build.request.build;
        self.queue.messages.retain(|_, message| message.build != id);
    }

    async fn in_queue(&mut self) -> BTreeSet<BuildId> {
        self.queue.messages.values().map(|message| message.build).collect()
    }

    async fn publish(&mut self, event: Event) -> bool {
        if self.event_ids.contains_key(&event.id) {
            return false;
        }
        self.event_ids.insert(event.id.clone(), self.events.len());
        self.events.push(Arc::new(event));
        true
    }

    async fn events(&mut self) -> Vec<Arc<Event>> {
        self.events.clone()
    }

    async fn owner(&mut self, reference: &Reference) -> Option<TagOwner> {
        self.owners.get(reference).cloned()
    }

    async fn claim_tag(&mut self, claimant: &TagOwner) -> TagOwner {
        match self.owners.get(&claimant.reference) {
            Some(owner) if owner.order > claimant.order => owner.clone(),
            _ => {
                self.owners.insert(claimant.reference.clone(), claimant.clone());
                claimant.clone()
            }
        }
    }

    async fn bury(&mut self, build: &Build) {
        let (build, epoch) = (build.request.build, build.state.epoch);
        if self.letter_ids.insert((build, epoch)) {
            self.last_letter += 1;
            self.letters.push(Letter { build, sequence: self.last_letter, epoch });
        }
    }

    async fn letter(&mut self, build: BuildId) -> Option<Letter> {
        self.letters.iter().rev().find(|letter| letter.build == build).copied()
    }

    async fn drop_letter(&mut self, dropped: Letter) {
        self.letters
            .retain(|letter| letter.build != dropped.build || letter.sequence > dropped.sequence);
    }

    async fn window_passes(&mut self) {
        self.queue.ids.clear();
        self.event_ids.clear();
        self.letter_ids.clear();
    }
}

impl Queue {
    fn take(&mut self) -> Option<Delivery> {
        while let Some(sequence) = self.again.pop_front() {
            if let Some(message) = self.messages.get(&sequence).copied() {
                return Some(self.deliver(sequence, message));
            }
        }
        let (sequence, message) = self.messages.range(self.next..).next()?;
        let (sequence, message) = (*sequence, *message);
        self.next = sequence + 1;
        Some(self.deliver(sequence, message))
    }

    fn deliver(&mut self, sequence: u64, message: Message) -> Delivery {
        let count = self.delivered.entry(sequence).or_default();
        *count += 1;
        let count = *count;
        self.deliveries += 1;
        let Message { build, order, accepted_at } = message;
        Delivery { number: self.deliveries - 1, sequence, build, order, accepted_at, count }
    }
}
