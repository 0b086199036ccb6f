// SPDX-License-Identifier: Apache-2.0

//! The consumer of one class of builds.
//!
//! A puller sees it through a trait, so that tests decide what the server answers and see when it
//! was asked.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer;
use async_nats::jetstream::consumer::pull::{self, Batch};
use futures::stream::Map;
use futures::{Stream, StreamExt as _};

use crate::delivery::Delivery;
use crate::query::QueryError;

/// Hands out the messages of one class.
pub(super) trait Consumer {
    /// A message.
    type Message;
    /// A request, which yields messages and ends.
    type Request: Stream<Item = Result<Self::Message, async_nats::Error>> + Unpin + Send;

    /// Asks for messages that are there now.
    fn now(
        &self,
        most: usize,
    ) -> impl Future<Output = Result<Self::Request, async_nats::Error>> + Send;

    /// Asks for messages that are there or come within a time.
    fn within(
        &self,
        time: Duration,
        most: usize,
    ) -> impl Future<Output = Result<Self::Request, async_nats::Error>> + Send;
}

/// The consumer of the builds of one pool and priority.
#[derive(Debug, Clone)]
pub struct BuildsConsumer {
    consumer: consumer::Consumer<pull::Config>,
}

impl BuildsConsumer {
    pub(crate) fn new(consumer: consumer::Consumer<pull::Config>) -> Self {
        Self { consumer }
    }

    /// Takes one build, if one is there now.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn take_one(&self) -> Result<Option<Delivery>, QueryError> {
        let taken = async { self.now(1).await?.next().await.transpose() };
        taken.await.map_err(|error| self.unavailable(error))
    }

    /// Makes the server count what waits. Until it is asked, nats-server 2.9.10 counts a removed
    /// message as waiting and lets a request wait for it.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn recount(&self) -> Result<(), QueryError> {
        let counted = self.consumer.get_info().await;
        counted.map(drop).map_err(|error| self.unavailable(error.into()))
    }

    fn unavailable(&self, error: async_nats::Error) -> QueryError {
        QueryError::new(format!("the consumer {}", self.consumer.cached_info().name), error)
    }
}

type Taken = fn(Result<Message, async_nats::Error>) -> Result<Delivery, async_nats::Error>;

fn taken(message: Result<Message, async_nats::Error>) -> Result<Delivery, async_nats::Error> {
    Delivery::of(message?)
}

impl Consumer for BuildsConsumer {
    type Message = Delivery;
    type Request = Map<Batch, Taken>;

    async fn now(&self, most: usize) -> Result<Self::Request, async_nats::Error> {
        Ok(self.consumer.fetch().max_messages(most).messages().await?.map(taken as Taken))
    }

    async fn within(
        &self,
        time: Duration,
        most: usize,
    ) -> Result<Self::Request, async_nats::Error> {
        // Without idle heartbeats: async-nats 0.51 swallows one without waking the reader, so that
        // a message after it lies unread until the request expires. The connection's own pings
        // detect a dead server.
        Ok(self
            .consumer
            .batch()
            .max_messages(most)
            .expires(time)
            .messages()
            .await?
            .map(taken as Taken))
    }
}
