// SPDX-License-Identifier: Apache-2.0

//! The dead-letter stream: requests that cannot be built, kept so that they can be read and
//! replayed.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::StreamExt as _;
use slipway_proto::state::Epoch;
use slipway_proto::subject::{DeadSubject, RequestSubject, is_token};
use slipway_proto::{Build, BuildRequest, Digest, PoolName, ProjectName, Timestamp, codec};

use crate::Queue;
use crate::bucket::timestamp;
use crate::delivery::{Delivery, DeliveryError};
use crate::publish::{PublishError, header};
use crate::query::QueryError;
use crate::read::{Message, ReadError, Reader, is_missing};

/// A request in the dead-letter stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its sequence in the stream, which orders lists.
    pub sequence: u64,
    /// The build in its subject.
    pub build: String,
    /// The project in its subject.
    pub project: String,
    /// The pool.
    pub pool: PoolName,
    /// Why it could not be built.
    pub reason: String,
    /// When it was stored.
    pub died_at: Timestamp,
    /// The claim under which the build failed.
    pub epoch: Epoch,
    /// How often it had been replayed.
    pub replays: u32,
    /// The digest of what the client sent, if the letter says it.
    pub submission: Option<Digest>,
    /// When the build was accepted, if the letter says it.
    pub accepted_at: Option<Timestamp>,
    /// Its bytes.
    pub payload: Bytes,
}

impl DeadLetter {
    /// Returns the request, if its bytes are one.
    #[must_use]
    pub fn request(&self) -> Option<BuildRequest> {
        codec::decode(&self.payload).ok()
    }

    fn of(
        subject: &str,
        sequence: u64,
        died_at: Timestamp,
        headers: &HeaderMap,
        payload: Bytes,
    ) -> Option<Self> {
        let subject = DeadSubject::parse(subject)?;
        let text = |name: &str| headers.get(name).map(HeaderValue::as_str);
        let number = |name: &str| text(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Some(Self {
            sequence,
            pool: subject.pool.parse().unwrap_or_default(),
            project: subject.project.to_owned(),
            build: subject.build.to_owned(),
            reason: text(header::DEAD_REASON).unwrap_or_default().to_owned(),
            died_at,
            epoch: number(header::DEAD_EPOCH),
            replays: u32::try_from(number(header::DEAD_REPLAYS)).unwrap_or(u32::MAX),
            submission: text(header::SUBMISSION_DIGEST).and_then(|digest| digest.parse().ok()),
            accepted_at: text(header::ACCEPTED_AT).and_then(|time| time.parse().ok()),
            payload,
        })
    }
}

impl Queue {
    /// Puts the request of a failed build into the dead-letter stream. Repeating it is harmless as
    /// long as the first copy is there.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn bury(&self, build: &Build) -> Result<(), PublishError> {
        let request = &build.request;
        let payload =
            codec::encode(request).map_err(|error| PublishError::Refused(error.into()))?;
        let headers = crate::publish::request_headers(build, &payload, None);
        let why = build.failure().map_or_else(String::new, ToString::to_string);
        let subject =
            self.subjects.dead(&request.pool, request.project.as_str(), &request.build.to_string());
        self.write_letter(subject, headers, payload.into(), &why, build).await
    }

    async fn write_letter(
        &self,
        subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
        why: &str,
        build: &Build,
    ) -> Result<(), PublishError> {
        headers.insert(header::DEAD_REASON, one_line(why).as_str());
        headers.insert(header::DEAD_EPOCH, build.state.epoch.to_string().as_str());
        headers.insert(header::DEAD_REPLAYS, build.replays.to_string().as_str());
        let id = format!("dead:{}:{}", build.request.build, build.state.epoch);
        self.store(subject, headers, payload, &id).await.map(drop)
    }

    /// Moves a message of the queue that is not a request into the dead-letter stream, unchanged.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn bury_message(
        &self,
        message: &Delivery,
        why: &DeliveryError,
    ) -> Result<(), PublishError> {
        let subject = message.subject();
        let Some(RequestSubject { pool, project, build, .. }) = RequestSubject::parse(subject)
        else {
            return Err(PublishError::Refused(
                format!("`{subject}` is not the subject of a build").into(),
            ));
        };
        let pool = pool.parse().unwrap_or_default();
        let (mut headers, payload) = (message.headers(), message.payload());
        headers.insert(header::DEAD_REASON, one_line(&why.to_string()).as_str());
        let id = format!("dead:{build}:{}", Digest::of(&payload).hex());
        let dead = self.subjects.dead(&pool, project, build);
        self.store(dead, headers, payload, &id).await.map(drop)
    }

    /// Reads the dead letters of a project after a sequence, oldest first.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn dead_letters(
        &self,
        project: &ProjectName,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        let (stream, filter) = (self.subjects.dead_stream(), self.subjects.deads_of(project));
        let reader = Reader::open(self, &stream, &filter, from).await?;
        let mut messages = reader.until_caught_up();
        let mut letters = Vec::new();
        while letters.len() < limit
            && let Some(message) = messages.next().await
        {
            letters.extend(letter(message?));
        }
        Ok(letters)
    }

    /// Reads the dead letter of a build by the token in its subject; a text that is not a token of
    /// a subject names none.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn dead_letter(
        &self,
        project: &ProjectName,
        build: &str,
    ) -> Result<Option<DeadLetter>, ReadError> {
        if !is_token(build) {
            return Ok(None);
        }
        let name = self.subjects.dead_stream();
        let unavailable =
            |source: async_nats::Error| ReadError::Unavailable { stream: name.clone(), source };
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| unavailable(error.into()))?;
        // The pool is not known here. At most one letter matches a build.
        let subject = self.subjects.dead_in_any_pool(project, build);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let (died_at, sequence) = (timestamp(&message), message.sequence);
                let subject = message.subject.to_string();
                Ok(DeadLetter::of(&subject, sequence, died_at, &message.headers, message.payload))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(error.into())),
        }
    }

    /// Removes a dead letter from the stream. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn drop_letter(&self, letter: &DeadLetter) -> Result<(), QueryError> {
        let name = self.subjects.dead_stream();
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| QueryError::of_stream(&name, error))?;
        let subject = self.subjects.dead(&letter.pool, &letter.project, &letter.build);
        // By subject and not by sequence alone: a second copy of the letter goes with it.
        let purged = stream.purge().sequence(letter.sequence + 1).filter(subject).await;
        purged.map(drop).map_err(|error| QueryError::of_stream(&name, error))
    }
}

pub(crate) fn letter(message: Message) -> Option<DeadLetter> {
    let headers = message.headers.unwrap_or_default();
    DeadLetter::of(&message.subject, message.sequence, message.time, &headers, message.payload)
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}
