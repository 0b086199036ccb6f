// SPDX-License-Identifier: Apache-2.0

//! Publishing with acknowledgement, and the meaning of its failures.

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use slipway_proto::event::Event;
use slipway_proto::{Build, codec};

use crate::Queue;
use crate::connection::REQUEST_TIMEOUT;
use crate::json;
use crate::refusal::Refusal;

/// Names of the headers on a build request.
pub mod header {
    /// The build's id.
    pub const BUILD_ID: &str = "Slipway-Build-Id";
    /// The version of the request's encoding.
    pub const REQUEST_SCHEMA: &str = "Slipway-Schema";
    /// The digest of the encoded request.
    pub const SPEC_DIGEST: &str = "Slipway-Spec-Digest";
    /// The digest of the submitted document.
    pub const SUBMISSION_DIGEST: &str = "Slipway-Submission-Digest";
    /// When the build was accepted (RFC 3339).
    pub const ACCEPTED_AT: &str = "Slipway-Accepted-At";
    /// The build's place in the order of acceptance.
    pub const ORDER: &str = "Slipway-Order";
    /// On a dead letter: why it is one.
    pub const DEAD_REASON: &str = "Slipway-Dead-Reason";
    /// On a dead letter: the claim under which the build failed.
    pub const DEAD_EPOCH: &str = "Slipway-Dead-Epoch";
    /// On a dead letter: how often the build had been replayed.
    pub const DEAD_REPLAYS: &str = "Slipway-Dead-Replays";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
}

/// How often a publish with an unknown result is repeated, under the same id.
const MAX_PUBLISH_TRIES: u32 = 3;

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The stream is full.
    #[error("the queue is full")]
    Full(#[source] async_nats::Error),
    /// No acknowledgement came. The message may have been stored nevertheless.
    #[error("NATS did not acknowledge in time")]
    Unavailable(#[source] async_nats::Error),
    /// The message itself is refused.
    #[error("the message was refused")]
    Refused(#[source] async_nats::Error),
}

/// The result of putting a build into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is in the queue.
    Now,
    /// Its subject already holds a message: the build was in the queue before.
    Before,
    /// A message of the same id came within the last two minutes. It may have been consumed since.
    Repeated,
}

/// The server's answer to a message that it stored or need not store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// It is stored.
    New { sequence: u64 },
    /// It is a copy of a message of the same id.
    Copy { first: u64 },
    /// Its subject holds another message, whose sequence the server does not report.
    SubjectTaken,
}

impl From<Acknowledged> for Stored {
    fn from(acknowledged: Acknowledged) -> Self {
        match acknowledged {
            Acknowledged::New { .. } => Self::Now,
            Acknowledged::Copy { .. } => Self::Repeated,
            Acknowledged::SubjectTaken => Self::Before,
        }
    }
}

/// An event that was sent and may be stored.
pub struct Sent {
    event: Box<Event>,
    pending: Option<PublishAckFuture>,
}

impl Sent {
    /// Returns the event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Makes sure that the event is stored, publishing it again if it is not.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn ensure(mut self, queue: &Queue) -> Result<(), PublishError> {
        self.stored(queue).await.map(drop)
    }

    /// The same, and returns the event's sequence, or that of the first copy. May be called again
    /// after an error.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn stored(&mut self, queue: &Queue) -> Result<u64, PublishError> {
        if let Some(pending) = self.pending.take()
            && let Ok(acknowledgement) = pending.await
        {
            return Ok(acknowledgement.sequence);
        }
        queue.publish_event_at(&self.event).await
    }
}

/// Returns the headers of a build's request.
pub(crate) fn request_headers(
    build: &Build,
    payload: &[u8],
    traceparent: Option<&str>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::BUILD_ID, build.request.build.to_string());
    headers.insert(header::REQUEST_SCHEMA, codec::SCHEMA);
    headers.insert(header::SPEC_DIGEST, codec::spec_digest(payload).to_string());
    headers.insert(header::SUBMISSION_DIGEST, build.submission.to_string());
    headers.insert(header::ACCEPTED_AT, build.accepted_at.to_string());
    headers.insert(header::ORDER, build.order.to_string());
    if let Some(traceparent) = traceparent {
        headers.insert(header::TRACEPARENT, traceparent);
    }
    headers
}

impl Queue {
    /// Puts a build into the queue. Repeating it is harmless: the server refuses a second copy on
    /// the same subject, which counts as success.
    ///
    /// # Errors
    ///
    /// When the queue is full, or the server does not acknowledge.
    pub async fn enqueue(
        &self,
        build: &Build,
        traceparent: Option<&str>,
    ) -> Result<Stored, PublishError> {
        self.enqueue_as(build, traceparent, &build.state.epoch.to_string()).await
    }

    pub(crate) async fn enqueue_as(
        &self,
        build: &Build,
        traceparent: Option<&str>,
        copy: &str,
    ) -> Result<Stored, PublishError> {
        let request = &build.request;
        let payload =
            codec::encode(request).map_err(|error| PublishError::Refused(error.into()))?;
        let headers = request_headers(build, &payload, traceparent);
        let subject =
            self.subjects.build(&request.pool, request.priority, &request.project, request.build);
        let id = format!("{}:{copy}", request.build);
        self.store(subject, headers, payload.into(), &id).await.map(Stored::from)
    }

    /// Publishes an event and waits until it is stored.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn publish_event(&self, event: &Event) -> Result<(), PublishError> {
        self.publish_event_at(event).await.map(|_sequence| ())
    }

    /// Publishes an event, waits until it is stored, and returns its sequence, or that of the first
    /// copy.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn publish_event_at(&self, event: &Event) -> Result<u64, PublishError> {
        let (subject, headers, payload) = self.event_message(event);
        match self.store(subject, headers, payload, &event.id).await? {
            Acknowledged::New { sequence } | Acknowledged::Copy { first: sequence } => Ok(sequence),
            Acknowledged::SubjectTaken => {
                Err(PublishError::Full("the stream of events allows one message a subject".into()))
            }
        }
    }

    /// Publishes an event without waiting for its acknowledgement, which can be awaited later.
    /// Later messages on the same connection are stored after it.
    pub async fn send_event(&self, event: Event) -> Sent {
        let (subject, headers, payload) = self.event_message(&event);
        let message =
            PublishMessage::build().payload(payload).headers(headers).message_id(&event.id);
        let sent = self.jetstream.send_publish(subject, message).await;
        let pending = sent
            .inspect_err(|error| tracing::debug!(%error, id = event.id, "an event was not sent"));
        Sent { event: Box::new(event), pending: pending.ok() }
    }

    /// Publishes an event whose storage nobody checks: it has no reply subject, so the server sends
    /// no answer. Later messages on the same connection are stored after it.
    pub async fn tell_event(&self, event: &Event) {
        let (subject, mut headers, payload) = self.event_message(event);
        headers.insert(NATS_MESSAGE_ID, event.id.as_str());
        let client = self.jetstream.client();
        let sent = client.publish_with_headers(subject, headers, payload);
        if !matches!(tokio::time::timeout(REQUEST_TIMEOUT, sent).await, Ok(Ok(()))) {
            tracing::debug!(id = event.id, "an event was not sent");
        }
    }

    fn event_message(&self, event: &Event) -> (String, HeaderMap, Bytes) {
        let subject = self.subjects.event(&event.source.project, event.subject, &event.body);
        let mut headers = HeaderMap::new();
        headers.insert(header::BUILD_ID, event.subject.to_string());
        headers.insert("content-type", "application/cloudevents+json");
        (subject, headers, json::bytes(event))
    }

    /// Publishes a message once, and waits until it is stored.
    pub(crate) async fn confirmed(
        &self,
        subject: String,
        message: PublishMessage,
    ) -> Result<(), PublishError> {
        let acknowledged = async { self.jetstream.send_publish(subject, message).await?.await };
        acknowledged.await.map(drop).map_err(|error| PublishError::Unavailable(error.into()))
    }

    /// Publishes a message until its result is known.
    pub(crate) async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        id: &str,
    ) -> Result<Acknowledged, PublishError> {
        let mut last = None;
        for _ in 0..MAX_PUBLISH_TRIES {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .headers(headers.clone())
                .message_id(id);
            let outcome = match self.jetstream.send_publish(subject.clone(), message).await {
                Ok(acknowledgement) => acknowledgement.await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                // After a try with an unknown result, the copy is our own.
                Ok(stored) if stored.duplicate && last.is_none() => {
                    return Ok(Acknowledged::Copy { first: stored.sequence });
                }
                Ok(stored) => return Ok(Acknowledged::New { sequence: stored.sequence }),
                Err(error) => error,
            };
            match Refusal::of(&error) {
                Refusal::SubjectTaken => return Ok(Acknowledged::SubjectTaken),
                Refusal::Full => return Err(PublishError::Full(error.into())),
                Refusal::TooLarge => return Err(PublishError::Refused(error.into())),
                Refusal::WrongRevision | Refusal::Busy | Refusal::Unknown => last = Some(error),
            }
        }
        let error = last.expect("there was at least one try");
        Err(PublishError::Unavailable(error.into()))
    }
}
