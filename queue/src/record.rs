// SPDX-License-Identifier: Apache-2.0

//! Live build records, changed by compare-and-set.
//!
//! Written straight to the stream behind the key-value bucket instead of through the client's
//! key-value store: a compare-and-set must tell apart a lost race (10071) from a write that is
//! still in process (10164, seen on clusters), which the store folds into one error, and must read
//! from the leader, since a direct get may answer from a replica that lags (ADR-31).

use std::time::Duration;

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{self, ErrorCode, context::PublishErrorKind};
use bytes::Bytes;
use slipway_proto::{Build, BuildId, ProjectName};

/// How often a write is tried again that the server called busy, or whose outcome is not known.
const MAX_TRIES: u32 = 10;

/// Reads and writes live build records.
#[derive(Debug, Clone)]
pub struct Records {
    jetstream: jetstream::Context,
    bucket: String,
}

/// A record with the revision that a compare-and-set must name.
#[derive(Debug, Clone)]
pub struct Record {
    /// The build.
    pub build: Build,
    /// Its revision: the sequence of its message in the bucket's stream.
    pub revision: u64,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is a record already, or it was changed in between: read it again.
    #[error("the record was changed by somebody else")]
    Conflict,
    /// The store takes no more.
    #[error("the state bucket is full")]
    Full(#[source] async_nats::Error),
    /// The server did not answer, or not in time.
    #[error("failed to reach the state bucket")]
    Unavailable(#[source] async_nats::Error),
    /// The stored bytes are not a record.
    #[error("the record of {0} does not parse")]
    Malformed(String, #[source] serde_json::Error),
}

impl Records {
    pub(crate) fn new(jetstream: jetstream::Context, bucket: String) -> Self {
        Self { jetstream, bucket }
    }

    fn subject(&self, project: &ProjectName, build: BuildId) -> String {
        format!("$KV.{}.{project}.{build}", self.bucket)
    }

    /// Reads a record from the stream's leader.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or the record does not parse.
    pub async fn get(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        let subject = self.subject(project, build);
        let Some(message) = self.last(&subject).await? else { return Ok(None) };
        if is_removed(&message) {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&message.payload)
            .map_err(|error| RecordError::Malformed(subject, error))?;
        Ok(Some(Record { build: parsed, revision: message.sequence }))
    }

    async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, RecordError> {
        let stream = self
            .jetstream
            .get_stream_no_info(format!("KV_{}", self.bucket))
            .await
            .map_err(|error| RecordError::Unavailable(error.into()))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
                match error.kind() {
                    Kind::NoMessageFound => Ok(None),
                    Kind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                        Ok(None)
                    }
                    _ => Err(RecordError::Unavailable(error.into())),
                }
            }
        }
    }

    /// Writes the first record of a build.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when there is one already.
    pub async fn create(&self, build: Build) -> Result<Record, RecordError> {
        match self.write(build.clone(), 0).await {
            Err(RecordError::Conflict) => {
                // What a deletion left behind has a revision of its own, and is no record.
                let request = &build.request;
                let subject = self.subject(&request.project, request.build);
                match self.last(&subject).await? {
                    Some(message) if is_removed(&message) => {
                        self.write(build, message.sequence).await
                    }
                    _ => Err(RecordError::Conflict),
                }
            }
            outcome => outcome,
        }
    }

    /// Removes a record if it still has its revision, as when its build was not accepted after
    /// all.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when somebody changed it in between.
    pub async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        let request = &record.build.request;
        let subject = self.subject(&request.project, request.build);
        for attempt in 0..MAX_TRIES {
            let message = PublishMessage::build().header("KV-Operation", "DEL");
            match self.publish(&subject, message, record.revision).await {
                Ok(_revision) => return Ok(()),
                Err(Refused::Wrong) => return Err(RecordError::Conflict),
                Err(Refused::Busy) => tokio::time::sleep(backoff(attempt)).await,
                Err(Refused::Full(error)) => return Err(RecordError::Full(error)),
                Err(Refused::Unavailable(error)) => return Err(RecordError::Unavailable(error)),
            }
        }
        Err(RecordError::Unavailable("the subject stayed busy".into()))
    }

    /// Writes a record if it still has the revision.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when somebody changed it in between.
    pub async fn update(&self, build: Build, revision: u64) -> Result<Record, RecordError> {
        self.write(build, revision).await
    }

    async fn write(&self, build: Build, revision: u64) -> Result<Record, RecordError> {
        let payload =
            Bytes::from(serde_json::to_vec(&build).expect("a record is always valid JSON"));
        let subject = self.subject(&build.request.project, build.request.build);
        let mut unavailable = None;
        for attempt in 0..MAX_TRIES {
            let message = PublishMessage::build().payload(payload.clone());
            match self.publish(&subject, message, revision).await {
                Ok(revision) => return Ok(Record { build, revision }),
                Err(Refused::Wrong) => return self.settle(build, unavailable.is_some()).await,
                Err(Refused::Busy) => tokio::time::sleep(backoff(attempt)).await,
                Err(Refused::Full(error)) => return Err(RecordError::Full(error)),
                // It may have been stored all the same: writing again tells, because then the
                // revision is wrong and the record is ours.
                Err(Refused::Unavailable(error)) if attempt < 2 => unavailable = Some(error),
                Err(Refused::Unavailable(error)) => return Err(RecordError::Unavailable(error)),
            }
        }
        let error = unavailable.unwrap_or_else(|| "the subject stayed busy".into());
        Err(RecordError::Unavailable(error))
    }

    /// Finds out whether a write that was refused had in truth succeeded at an earlier try.
    async fn settle(&self, build: Build, retried: bool) -> Result<Record, RecordError> {
        if retried {
            let request = &build.request;
            let stored = self.get(&request.project, request.build).await?;
            if let Some(record) = stored
                && record.build == build
            {
                return Ok(record);
            }
        }
        Err(RecordError::Conflict)
    }

    async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
        revision: u64,
    ) -> Result<u64, Refused> {
        let message = message.expected_last_subject_sequence(revision);
        let unavailable = |error: async_nats::Error| Refused::Unavailable(error);
        let acknowledgement = self
            .jetstream
            .send_publish(subject.to_owned(), message)
            .await
            .map_err(|error| unavailable(error.into()))?;
        match acknowledgement.await {
            Ok(acknowledgement) => Ok(acknowledgement.sequence),
            Err(error) => match (error.kind(), crate::publish::server_error(&error)) {
                (PublishErrorKind::WrongLastSequence, _) => Err(Refused::Wrong),
                (_, Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => Err(Refused::Busy),
                (_, Some(ErrorCode::STREAM_STORE_FAILED)) => Err(Refused::Full(error.into())),
                _ => Err(unavailable(error.into())),
            },
        }
    }
}

fn is_removed(message: &StreamMessage) -> bool {
    message.headers.get("KV-Operation").is_some()
}

enum Refused {
    Wrong,
    Busy,
    Full(async_nats::Error),
    Unavailable(async_nats::Error),
}

/// Between 1 and 20 ms, spread so that two writers do not meet again.
fn backoff(attempt: u32) -> Duration {
    let spread = u64::from(std::process::id() % 7);
    Duration::from_millis((1 << attempt.min(4)) + spread)
}
