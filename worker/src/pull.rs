// SPDX-License-Identifier: Apache-2.0

//! Takes builds from the queue: one message for each free slot, never more.
//!
//! Classes are asked in weighted turns (16 : 4 : 1), each without waiting; only when all are empty
//! does one pull request wait in each. A request that still waits when the last slot fills may
//! bring a message nobody has room for: it is given back at once, for another worker. Prefetching
//! would be simpler and is the classic mistake: prefetched builds age in a buffer until their
//! lease ends, and run twice (nats.go#1929).

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{AckKind, Message};
use futures::{FutureExt as _, StreamExt as _};
use slipway_proto::{PoolName, Priority};
use slipway_queue::Queue;
use slipway_queue::topology::{PullConsumer, TopologyError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// How long a pull request waits on the server. A server that stops leading the queue forgets its
/// requests without a word, and a worker connected to another one of the cluster does not notice:
/// this bounds how long it hears nothing.
const WAIT: Duration = Duration::from_secs(10);
/// How long the server may take to say whether there is a message now. async-nats 0.51 sets no
/// limit to that, and a cluster without a leader never answers.
const ANSWER: Duration = Duration::from_secs(1);
/// The pause after a failure of the server.
const PAUSE: Duration = Duration::from_millis(250);

/// Takes builds of one pool.
pub(crate) struct Puller {
    classes: Vec<Class>,
    turns: Turns,
    reconnected: watch::Receiver<u64>,
}

struct Class {
    consumer: PullConsumer,
    /// A request that waits on the server.
    waiting: Option<Batch>,
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
            classes.push(Class { consumer, waiting: None });
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
        while let Some(slot) = self.free_slot(&slots, &stop).await {
            let message = tokio::select! {
                message = self.next() => message,
                () = stop.cancelled() => break,
            };
            take(message, slot);
        }
        // Requests that still wait are withdrawn with their inboxes; a message that was on its way
        // to one is delivered again when its lease ends.
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

    /// Returns the next message, whenever it comes.
    async fn next(&mut self) -> Message {
        loop {
            for class in self.turns.next() {
                if let Some(message) = self.classes[class].try_next().await {
                    return message;
                }
            }
            for class in &mut self.classes {
                if class.waiting.is_none() && !class.wait().await {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::select! {
                message = next_waiting(&mut self.classes) => {
                    if let Some(message) = message {
                        return message;
                    }
                }
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
}

impl Class {
    /// Asks for a message that is there now. A request that waits already would have got it.
    async fn try_next(&mut self) -> Option<Message> {
        if let Some(waiting) = &mut self.waiting {
            return match waiting.next().now_or_never()? {
                Some(Ok(message)) => {
                    self.waiting = None;
                    Some(message)
                }
                Some(Err(_)) | None => {
                    self.waiting = None;
                    None
                }
            };
        }
        let answer = async {
            let mut batch = self.consumer.fetch().max_messages(1).messages().await.ok()?;
            batch.next().await?.ok()
        };
        tokio::time::timeout(ANSWER, answer).await.ok().flatten()
    }

    /// Leaves a request waiting on the server, and returns whether that worked.
    async fn wait(&mut self) -> bool {
        // Without idle heartbeats: async-nats 0.51 swallows one without waking the reader again, so
        // that after the first of them a message lies unread until the request expires. A dead
        // server is noticed by the connection's own pings.
        let request = self.consumer.batch().max_messages(1).expires(WAIT).messages();
        match request.await {
            Ok(batch) => {
                self.waiting = Some(batch);
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
async fn next_waiting(classes: &mut [Class]) -> Option<Message> {
    let requests = classes.iter_mut().filter_map(|class| {
        let waiting = &mut class.waiting;
        waiting.is_some().then(|| {
            async move {
                let next = waiting.as_mut().expect("it was there").next().await;
                // One message was asked for; whatever came, the request is over.
                *waiting = None;
                match next {
                    Some(Ok(message)) => Some(message),
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

    /// Returns the classes in the order to ask them now.
    fn next(&mut self) -> [usize; 3] {
        let mut order = [0, 1, 2];
        order.sort_by_key(|class| self.passes[*class]);
        let first = order[0];
        let (_, _, weight) = Priority::ALL[first];
        self.passes[first] += Self::ROUND / weight;
        let least = self.passes.iter().copied().min().unwrap_or_default();
        for pass in &mut self.passes {
            *pass -= least;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn a_round_of_turns_has_the_weights_of_the_classes() {
        let mut turns = Turns::default();
        let mut first = [0; 3];
        for _ in 0..21 * 10 {
            first[turns.next()[0]] += 1;
        }
        assert_eq!(first, [160, 40, 10]);
    }
}
