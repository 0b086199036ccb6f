// SPDX-License-Identifier: Apache-2.0

//! Takes builds from the queue: as many messages as there is room for, never more.
//!
//! The room is shared out among the classes in weighted turns (16 : 4 : 1), and each class is asked
//! at once for as many messages as its share, without waiting. Only when all classes are empty does
//! one pull request wait in each. A class that was empty while others were not is left alone for
//! some milliseconds. A request that still waits when the room is used up may bring a message that
//! has no place: it is given back at once, for another worker. Prefetching would be simpler and is
//! the classic mistake: prefetched builds age in a buffer until their lease ends, and run twice
//! (nats.go#1929).

pub(crate) mod consumer;
mod turns;

use std::pin::pin;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use slipway_proto::{PoolName, Priority};
use tokio::time::Instant;

use crate::Queue;
use crate::delivery::Delivery;
use crate::reconnect::Reconnections;
use crate::topology::SetupError;
pub use consumer::BuildsConsumer;
use consumer::Consumer;
use turns::WeightedTurns;

/// How long a pull request waits on the server. A server that stops leading the queue silently
/// forgets its requests, and a worker connected to another server of the cluster does not notice.
/// This bounds how long that worker waits in vain.
const REQUEST_EXPIRES: Duration = Duration::from_secs(10);

/// How long the server may take to say whether there is a message now. async-nats 0.51 sets no
/// limit, and a cluster without a leader never answers.
const FETCH_DEADLINE: Duration = Duration::from_secs(1);

/// How many messages are taken at once, however much room there is: a worker that starts with many
/// slots must not take everything that the others could begin with.
const MAX_TAKEN_AT_ONCE: usize = 64;

/// How long a class that was empty is left alone while others have builds. To a fleet that is busy a
/// build of higher priority may come so much later; a worker with many short builds asks an empty
/// class so many times a second and not for each of them.
const IDLE_CLASS_PAUSE: Duration = Duration::from_millis(50);

/// How long a request that asks an empty class again waits on the server: the shortest wait that
/// the server knows.
///
/// A request that does not wait at all would do, but nats-server 2.9.10 answers that by matching the
/// subject of each message in the queue, 2 ms for 10,000 of them, as long as no request has ever
/// waited there.
const IDLE_CLASS_EXPIRES: Duration = Duration::from_millis(1);

/// The pause after a failure of the server.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// Takes builds of one pool.
pub struct Puller(Classes<BuildsConsumer>);

/// The classes of a pool.
struct Classes<C: Consumer> {
    classes: Vec<Class<C>>,
    turns: WeightedTurns,
    reconnections: Reconnections,
}

/// One class of builds.
struct Class<C: Consumer> {
    consumer: C,
    /// A request that waits on the server.
    waiting: Option<C::Request>,
    /// When it was found empty, if it was empty when it was last asked.
    empty_since: Option<Instant>,
}

impl Queue {
    /// Opens the consumers of a pool, making those that are missing.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub async fn pull(&self, pool: &PoolName) -> Result<Puller, SetupError> {
        let mut consumers = Vec::new();
        for (priority, ..) in Priority::ALL {
            consumers.push(self.builds_consumer(pool, priority).await?);
        }
        let weights = Priority::ALL.map(|(_, _, weight)| weight);
        Ok(Puller(Classes::new(consumers, &weights, self.reconnections())))
    }
}

impl Puller {
    /// Takes the next builds: at least one and at most as many as there is room for, whenever they
    /// come. Returns `None` when `stop` resolves first.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a build that was on its way would have no holder until its lease ends.
    pub async fn next(
        &mut self,
        room: usize,
        stop: impl Future<Output = ()>,
    ) -> Option<Vec<Delivery>> {
        self.0.next(room.min(MAX_TAKEN_AT_ONCE), stop).await
    }

    /// Returns a build that came although there is no room, from a request that still waited when
    /// the last place was taken. Resolves never when no request waits.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn surplus(&mut self) -> Delivery {
        let classes = &mut self.0.classes;
        while classes.iter().any(|class| class.waiting.is_some()) {
            if let Some(delivery) = next_waiting(classes).await {
                return delivery;
            }
        }
        std::future::pending().await
    }
}

impl<C: Consumer> Classes<C> {
    fn new(consumers: Vec<C>, weights: &[u32], reconnections: Reconnections) -> Self {
        let class = |consumer| Class { consumer, waiting: None, empty_since: None };
        let classes = consumers.into_iter().map(class).collect();
        Self { classes, turns: WeightedTurns::new(weights), reconnections }
    }

    /// Returns the next messages, at least one and at most `room`; nothing when stopped before.
    async fn next(
        &mut self,
        room: usize,
        stop: impl Future<Output = ()>,
    ) -> Option<Vec<C::Message>> {
        let mut stop = pin!(stop);
        loop {
            // Not interrupted: what came would have no holder until its lease ends.
            let messages = self.available(room).await;
            if !messages.is_empty() {
                return Some(messages);
            }
            for class in &mut self.classes {
                if class.waiting.is_none() && !class.wait().await {
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
            tokio::select! {
                message = next_waiting(&mut self.classes) => {
                    if let Some(message) = message {
                        return Some(vec![message]);
                    }
                }
                () = &mut stop => return None,
                // A restarted server has forgotten the requests that waited on it.
                () = self.reconnections.next() => {
                    for class in &mut self.classes {
                        class.waiting = None;
                    }
                }
            }
        }
    }

    /// Returns messages that are there now, at most `room`. The part of its share that a class does
    /// not use goes to the others.
    async fn available(&mut self, room: usize) -> Vec<C::Message> {
        let mut messages = Vec::new();
        let mut may_have_more: Vec<bool> =
            self.classes.iter().map(|class| !class.is_paused()).collect();
        while messages.len() < room && may_have_more.contains(&true) {
            let shares = self.turns.share(room - messages.len(), &may_have_more);
            let classes = self.classes.iter_mut().zip(&shares);
            let asked = classes.map(|(class, share)| class.take(*share));
            let taken = futures::future::join_all(asked).await;
            for ((taken, share), more) in taken.into_iter().zip(shares).zip(&mut may_have_more) {
                *more &= taken.len() == share;
                messages.extend(taken);
            }
        }
        messages
    }
}

impl<C: Consumer> Class<C> {
    /// Returns whether it was found empty a moment ago and no request waits there.
    fn is_paused(&self) -> bool {
        let is_recent = |since: Instant| since.elapsed() < IDLE_CLASS_PAUSE;
        self.waiting.is_none() && self.empty_since.is_some_and(is_recent)
    }

    /// Takes messages that are there now, at most `share`. Where a request waits, there are none
    /// but the one that the request was sent.
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

    /// Asks for messages that are there now, and adds those that come.
    async fn fetch(&self, most: usize, messages: &mut Vec<C::Message>) {
        let answer = async {
            let asked = match self.empty_since {
                None => self.consumer.now(most).await,
                Some(_) => self.consumer.within(IDLE_CLASS_EXPIRES, most).await,
            };
            let Ok(mut batch) = asked else { return };
            // Ends by itself if there are fewer, because the server reports it after the last one.
            while let Some(Ok(message)) = batch.next().await {
                messages.push(message);
            }
        };
        if tokio::time::timeout(FETCH_DEADLINE, answer).await.is_err() {
            tracing::debug!("the server did not answer in time whether there are builds");
        }
    }

    /// Leaves a request waiting on the server, and returns whether that worked.
    async fn wait(&mut self) -> bool {
        match self.consumer.within(REQUEST_EXPIRES, 1).await {
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

/// Returns the result of the first waiting request: a message, or `None` if it ended.
async fn next_waiting<C: Consumer>(classes: &mut [Class<C>]) -> Option<C::Message> {
    let requests = classes.iter_mut().filter_map(|class| {
        let Class { waiting, empty_since, .. } = class;
        waiting.is_some().then(|| {
            async move {
                let next = waiting.as_mut().expect("it was there").next().await;
                // The request was for one message, so it is over now.
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
        tokio::time::sleep(FAILURE_PAUSE).await;
        return None;
    }
    futures::future::select_all(requests).await.0
}

#[cfg(test)]
mod tests;
