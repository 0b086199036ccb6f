// SPDX-License-Identifier: Apache-2.0

//! Takes builds from the queue: one message for each free slot, never more.
//!
//! The free slots are shared out among the classes in weighted turns (16 : 4 : 1), and each class is
//! asked at once for as many messages as its share, without waiting; only when all are empty
//! does one pull request wait in each. One that was empty while others were not is left alone for
//! some milliseconds. A request that still waits when the last slot fills may
//! bring a message nobody has room for: it is given back at once, for another worker. Prefetching
//! would be simpler and is the classic mistake: prefetched builds age in a buffer until their
//! lease ends, and run twice (nats.go#1929).

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{AckKind, Message};
use futures::{FutureExt as _, Stream, StreamExt as _};
use slipway_proto::{PoolName, Priority};
use slipway_queue::Queue;
use slipway_queue::topology::{PullConsumer, TopologyError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a pull request waits on the server. A server that stops leading the queue forgets its
/// requests without a word, and a worker connected to another one of the cluster does not notice:
/// this bounds how long it hears nothing.
const WAIT: Duration = Duration::from_secs(10);
/// How long the server may take to say whether there is a message now. async-nats 0.51 sets no
/// limit to that, and a cluster without a leader never answers.
const ANSWER: Duration = Duration::from_secs(1);
/// How many messages are asked for at once, however many slots are free: a worker that starts with
/// many must not take all that the others could begin with.
const MOST_AT_ONCE: usize = 64;
/// How long a class that was empty is left alone while others have builds. A build of higher priority
/// may come so much later to a fleet that is busy; a worker with many short builds asks an empty class
/// so many times a second and not for each of them.
const REST: Duration = Duration::from_millis(50);
/// How long a request waits on the server that asks an empty class again: the least that it counts.
///
/// Not one that does not wait at all: nats-server 2.9.10 answers that by matching the subject of each
/// message in the queue, 2 ms for 10,000 of them, as long as no request has ever waited there.
const GLANCE: Duration = Duration::from_millis(1);
/// The pause after a failure of the server.
const PAUSE: Duration = Duration::from_millis(250);

/// Takes builds of one pool.
pub(crate) struct Puller<C: Consumer = PullConsumer> {
    classes: Vec<Class<C>>,
    turns: Turns,
    reconnected: watch::Receiver<u64>,
}

/// What a class is asked. A seam: when it is asked is told apart from the server's answers.
pub(crate) trait Consumer {
    /// What is taken.
    type Message;
    /// A request, which yields messages and ends.
    type Request: Stream<Item = Result<Self::Message, async_nats::Error>> + Unpin + Send;

    /// Asks for messages that are there now.
    fn now(
        &self,
        most: usize,
    ) -> impl Future<Output = Result<Self::Request, async_nats::Error>> + Send;

    /// Asks for messages that are there, or come within a time.
    fn within(
        &self,
        time: Duration,
        most: usize,
    ) -> impl Future<Output = Result<Self::Request, async_nats::Error>> + Send;
}

impl Consumer for PullConsumer {
    type Message = Message;
    type Request = Batch;

    async fn now(&self, most: usize) -> Result<Batch, async_nats::Error> {
        Ok(self.fetch().max_messages(most).messages().await?)
    }

    async fn within(&self, time: Duration, most: usize) -> Result<Batch, async_nats::Error> {
        // Without idle heartbeats: async-nats 0.51 swallows one without waking the reader again, so
        // that after the first of them a message lies unread until the request expires. A dead
        // server is noticed by the connection's own pings.
        Ok(self.batch().max_messages(most).expires(time).messages().await?)
    }
}

struct Class<C: Consumer> {
    consumer: C,
    /// A request that waits on the server.
    waiting: Option<C::Request>,
    /// When it was found empty, if it was so when last asked.
    empty_since: Option<Instant>,
}

impl Puller {
    /// Opens the consumers of a pool, making them if they are missing.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub(crate) async fn open(queue: &Queue, pool: &PoolName) -> Result<Self, TopologyError> {
        let mut classes = Vec::new();
        for (priority, ..) in Priority::ALL {
            let consumer = queue.builds_consumer(pool, priority).await?;
            classes.push(Class { consumer, waiting: None, empty_since: None });
        }
        Ok(Self { classes, turns: Turns::default(), reconnected: queue.connections() })
    }

    /// Takes messages until cancelled, each with the slot it takes up.
    pub(crate) async fn run(
        mut self,
        slots: std::sync::Arc<Semaphore>,
        stop: CancellationToken,
        take: impl Fn(Message, OwnedSemaphorePermit),
    ) {
        while let Some(mut free) = self.free_slots(&slots, &stop).await {
            let room = free.num_permits();
            let Some(messages) = self.next(room, &stop).await else { break };
            for message in messages {
                let slot = free.split(1).expect("no more came than there was room for");
                take(message, slot);
            }
        }
        // Requests that still wait are withdrawn with their inboxes; a message that was on its way
        // to one is delivered again when its lease ends.
    }

    /// Waits for a free slot, giving back what arrives meanwhile, and takes with it those that are
    /// free too.
    async fn free_slots(
        &mut self,
        slots: &std::sync::Arc<Semaphore>,
        stop: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        let mut free = self.free_slot(slots, stop).await?;
        while free.num_permits() < MOST_AT_ONCE
            && let Ok(another) = std::sync::Arc::clone(slots).try_acquire_owned()
        {
            free.merge(another);
        }
        Some(free)
    }

    /// Waits for a free slot, giving back what arrives meanwhile.
    async fn free_slot(
        &mut self,
        slots: &std::sync::Arc<Semaphore>,
        stop: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                slot = std::sync::Arc::clone(slots).acquire_owned() => {
                    return Some(slot.expect("the semaphore is never closed"));
                }
                message = next_waiting(&mut self.classes), if self.classes.iter().any(|c| c.waiting.is_some()) => {
                    if let Some(message) = message
                        && let Err(error) = message.ack_with(AckKind::Nak(None)).await
                    {
                        tracing::debug!(%error, "a surplus message was not given back");
                    }
                }
            }
        }
    }
}

impl<C: Consumer> Puller<C> {
    /// Returns the next messages, at least one and at most `room`, whenever they come; nothing when
    /// cancelled before.
    async fn next(&mut self, room: usize, stop: &CancellationToken) -> Option<Vec<C::Message>> {
        loop {
            // Not interrupted: what came would be nobody's until its lease ends.
            let messages = self.available(room).await;
            if !messages.is_empty() {
                return Some(messages);
            }
            for class in &mut self.classes {
                if class.waiting.is_none() && !class.wait().await {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::select! {
                message = next_waiting(&mut self.classes) => {
                    if let Some(message) = message {
                        return Some(vec![message]);
                    }
                }
                () = stop.cancelled() => return None,
                // A restarted server has forgotten the requests that waited on it.
                changed = self.reconnected.changed() => {
                    for class in &mut self.classes {
                        class.waiting = None;
                    }
                    if changed.is_err() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Returns messages that are there now, at most `room`. What a class does not use of its share
    /// goes to the others.
    async fn available(&mut self, room: usize) -> Vec<C::Message> {
        let mut messages = Vec::new();
        let mut may_have_more = [0, 1, 2].map(|class: usize| !self.classes[class].rests());
        while messages.len() < room && may_have_more.contains(&true) {
            let shares = self.turns.share(room - messages.len(), may_have_more);
            let asked = self.classes.iter_mut().zip(shares).map(|(class, share)| class.take(share));
            let taken = futures::future::join_all(asked).await;
            for (class, taken) in taken.into_iter().enumerate() {
                may_have_more[class] &= taken.len() == shares[class];
                messages.extend(taken);
            }
        }
        messages
    }
}

impl<C: Consumer> Class<C> {
    /// Returns whether it was found empty just now, and nothing waits there.
    fn rests(&self) -> bool {
        self.waiting.is_none() && self.empty_since.is_some_and(|since| since.elapsed() < REST)
    }

    /// Takes messages that are there now, at most `share`. Where a request waits, there are none
    /// but the one that it has got.
    async fn take(&mut self, share: usize) -> Vec<C::Message> {
        let mut messages = Vec::new();
        if share == 0 {
            return messages;
        }
        if let Some(waiting) = &mut self.waiting {
            let Some(next) = waiting.next().now_or_never() else { return messages };
            self.waiting = None;
            messages.extend(next.and_then(Result::ok));
            if !messages.is_empty() {
                self.empty_since = None;
            }
        }
        let missing = share - messages.len();
        if missing > 0 {
            self.fetch(missing, &mut messages).await;
        }
        self.empty_since = (messages.len() < share).then(Instant::now);
        messages
    }

    /// Asks for messages that are there now, and adds what comes.
    async fn fetch(&self, most: usize, messages: &mut Vec<C::Message>) {
        let answer = async {
            let asked = match self.empty_since {
                None => self.consumer.now(most).await,
                Some(_) => self.consumer.within(GLANCE, most).await,
            };
            let Ok(mut batch) = asked else { return };
            // Ends by itself when there are fewer: the server says so behind the last one.
            while let Some(Ok(message)) = batch.next().await {
                messages.push(message);
            }
        };
        if tokio::time::timeout(ANSWER, answer).await.is_err() {
            tracing::debug!("the server did not say in time whether there are builds");
        }
    }

    /// Leaves a request waiting on the server, and returns whether that worked.
    async fn wait(&mut self) -> bool {
        match self.consumer.within(WAIT, 1).await {
            Ok(request) => {
                self.waiting = Some(request);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "could not ask for builds");
                false
            }
        }
    }
}

/// Returns what the first of the waiting requests brings: a message, or nothing when it ended.
async fn next_waiting<C: Consumer>(classes: &mut [Class<C>]) -> Option<C::Message> {
    let requests = classes.iter_mut().filter_map(|class| {
        let Class { waiting, empty_since, .. } = class;
        waiting.is_some().then(|| {
            async move {
                let next = waiting.as_mut().expect("it was there").next().await;
                // One message was asked for; whatever came, the request is over.
                *waiting = None;
                match next {
                    Some(Ok(message)) => {
                        *empty_since = None;
                        Some(message)
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a request for builds ended");
                        None
                    }
                    None => None,
                }
            }
            .boxed()
        })
    });
    let requests: Vec<_> = requests.collect();
    if requests.is_empty() {
        tokio::time::sleep(PAUSE).await;
        return None;
    }
    futures::future::select_all(requests).await.0
}

/// Weighted turns: over a round of 21 the classes come first 16, 4 and 1 times, evenly spread
/// (stride scheduling).
#[derive(Debug, Default)]
struct Turns {
    passes: [u32; 3],
}

impl Turns {
    /// The stride of a class is the product of the other weights over a common factor.
    const ROUND: u32 = 16;

    /// Shares out a number of turns among the classes that are asked at all; at least one is.
    ///
    /// The turn of a class that is not asked goes to the next one and counts as its own: what was
    /// empty for long is owed nothing, and what had the queue to itself owes nothing.
    fn share(&mut self, turns: usize, asked: [bool; 3]) -> [usize; 3] {
        let mut shares = [0; 3];
        for _ in 0..turns {
            let mut order = [0, 1, 2];
            order.sort_by_key(|class| self.passes[*class]);
            if let Some(class) = order.into_iter().find(|class| asked[*class]) {
                shares[class] += 1;
            }
            let (_, _, weight) = Priority::ALL[order[0]];
            self.passes[order[0]] += Self::ROUND / weight;
            let least = self.passes.iter().copied().min().unwrap_or_default();
            for pass in &mut self.passes {
                *pass -= least;
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests;
