// SPDX-License-Identifier: Apache-2.0

//! The outcomes of builds as work items: each is delivered to one dispatcher, again and again until
//! it is done.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{AckKind, Message};
use futures::{Stream, StreamExt as _};
use slipway_proto::subject::EventSubject;
use slipway_proto::{BuildId, ProjectName, Timestamp};

use crate::Queue;
use crate::publish::header;

/// The durable consumer's name, shared by all dispatchers of a prefix.
const CONSUMER: &str = "log-archiver";

/// How many outcomes may be delivered and unfinished at once. Each waits for the retry time, so
/// this limits all dispatchers together to some 8,000 builds a second. The default of 1,000 would
/// limit them to 16.
const MAX_OUTCOMES_PENDING: i64 = 500_000;

/// The longest wait for outcomes in one pull. It only limits how long a lost pull goes unnoticed.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// The outcome of a build, delivered to this process.
#[derive(Debug)]
pub struct Outcome {
    message: Message,
    /// How many outcomes wait behind it.
    pub waiting: u64,
    /// When it was stored, by the server's clock.
    pub published_at: Timestamp,
}

/// Why outcomes could not be read or answered.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The consumer cannot be used.
    #[error("failed to use the consumer {CONSUMER}")]
    Consumer(#[source] async_nats::Error),
    /// The answer was not sent.
    #[error("failed to answer an outcome")]
    Answer(#[source] async_nats::Error),
}

impl Outcome {
    fn of(message: Message) -> Result<Self, OutcomeError> {
        let info = message.info().map_err(OutcomeError::Consumer)?;
        let (waiting, time) = (info.pending, info.published.unix_timestamp_nanos());
        let published_at = Timestamp::from_nanosecond(time).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Self { message, waiting, published_at })
    }

    /// Returns the project and the build, if its subject and its headers name them.
    #[must_use]
    pub fn ids(&self) -> Option<(ProjectName, BuildId)> {
        let EventSubject { project, .. } = EventSubject::parse(&self.message.subject)?;
        let build = self.message.headers.as_ref()?.get(header::BUILD_ID)?;
        Some((project, build.as_str().parse().ok()?))
    }

    /// Returns its subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Marks the outcome as done. It is not delivered again.
    ///
    /// # Errors
    ///
    /// When the answer cannot be sent. It is not confirmed.
    pub async fn done(&self) -> Result<(), OutcomeError> {
        self.message.ack_with(AckKind::Ack).await.map_err(OutcomeError::Answer)
    }

    /// Asks for another delivery after a delay.
    ///
    /// # Errors
    ///
    /// When the answer cannot be sent. It is not confirmed.
    pub async fn again_in(&self, delay: Duration) -> Result<(), OutcomeError> {
        self.message.ack_with(AckKind::Nak(Some(delay))).await.map_err(OutcomeError::Answer)
    }
}

impl Queue {
    /// Reads outcomes, at most `most` ahead. An outcome that was not answered within `retry` is
    /// delivered again, perhaps to another dispatcher.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn outcomes(
        &self,
        most: usize,
        retry: Duration,
    ) -> Result<impl Stream<Item = Result<Outcome, OutcomeError>> + Send + Unpin, OutcomeError>
    {
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            description: Some("moves logs of finished builds to the artifact store".to_owned()),
            filter_subject: self.subjects.outcomes(),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: retry,
            max_ack_pending: MAX_OUTCOMES_PENDING,
            ..Default::default()
        };
        let consumer = self
            .jetstream
            .create_consumer_on_stream(config, self.subjects.events_stream())
            .await
            .map_err(|error| OutcomeError::Consumer(error.into()))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(most)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .map_err(|error| OutcomeError::Consumer(error.into()))?;
        Ok(messages.map(|message| {
            Outcome::of(message.map_err(|error| OutcomeError::Consumer(error.into()))?)
        }))
    }
}
