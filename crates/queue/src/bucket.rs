// SPDX-License-Identifier: Apache-2.0

//! Entries changed by compare-and-set: the ground of records, owners of tags and elections.
//!
//! They are written straight to the stream behind a key-value bucket, and not through the client's
//! key-value store. A compare-and-set must tell a lost race (10071) from a write that is still in
//! process (10164, seen on clusters); the store makes one error of both. And it must read from the
//! leader, since a direct get may answer from a replica that lags (ADR-31).

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use bytes::Bytes;
use slipway_fault::Backoff;
use slipway_proto::Timestamp;
use slipway_proto::subject::{bucket_stream, bucket_subject};

use crate::refusal::Refusal;

/// The header of a message that removes an entry of a key-value bucket.
pub(crate) const OPERATION: &str = "KV-Operation";

/// How often a write is tried that the server calls busy, or whose outcome is not known.
const MAX_WRITE_TRIES: u32 = 10;

/// The pauses before a write that the server called busy is sent again, spread so that two writers
/// do not meet again.
const BUSY: Backoff = Backoff::constant(5, 2, 20, 80);

/// One bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    jetstream: jetstream::Context,
    name: String,
}

/// An entry with the revision that a compare-and-set must name.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    /// The sequence of its message in the bucket's stream.
    pub(crate) revision: u64,
    /// When it was written, by the server's clock.
    pub(crate) written_at: Timestamp,
}

/// The first value of a key, which was sent and may be stored.
pub(crate) struct Creating {
    key: String,
    value: Bytes,
    sent: Result<PublishAckFuture, Refused>,
}

/// Why an entry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    #[error("the entry was changed by another process")]
    Conflict,
    #[error("the bucket is full")]
    Full(#[source] async_nats::Error),
    #[error("the bucket does not answer")]
    Unavailable(#[source] async_nats::Error),
}

/// A write that the server did not acknowledge: what that means, and the client's error.
struct Refused(Refusal, async_nats::Error);

impl Bucket {
    pub(crate) fn new(jetstream: jetstream::Context, name: String) -> Self {
        Self { jetstream, name }
    }

    /// Returns the subject of a key.
    pub(crate) fn subject(&self, key: &str) -> String {
        bucket_subject(&self.name, key)
    }

    /// Reads an entry from the stream's leader.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, BucketError> {
        let Some(message) = self.last(key).await? else { return Ok(None) };
        if is_removed(&message) {
            return Ok(None);
        }
        Ok(Some(Entry {
            revision: message.sequence,
            written_at: timestamp(&message),
            value: message.payload,
        }))
    }

    async fn last(&self, key: &str) -> Result<Option<StreamMessage>, BucketError> {
        let stream = self
            .jetstream
            .get_stream_no_info(bucket_stream(&self.name))
            .await
            .map_err(|error| BucketError::Unavailable(error.into()))?;
        match stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if crate::read::error::is_missing(&error) => Ok(None),
            Err(error) => Err(BucketError::Unavailable(error.into())),
        }
    }

    /// Writes the first value of a key and returns its revision.
    pub(crate) async fn create(&self, key: &str, value: Bytes) -> Result<u64, BucketError> {
        let creating = self.begin_create(key.to_owned(), value).await;
        self.finish_create(creating).await
    }

    /// Sends the first value of a key without waiting until it is stored. Messages on one
    /// connection are stored in order, so values get their revisions in the order of these calls.
    pub(crate) async fn begin_create(&self, key: String, value: Bytes) -> Creating {
        let message = PublishMessage::build().payload(value.clone());
        let sent = self.send(&key, message, 0).await;
        Creating { key, value, sent }
    }

    /// Waits until a first value is stored and returns its revision. A value that must be sent
    /// again loses its place in the order.
    pub(crate) async fn finish_create(&self, creating: Creating) -> Result<u64, BucketError> {
        let Creating { key, value, sent } = creating;
        let first = match sent {
            Ok(sent) => acknowledged(sent).await,
            Err(refused) => Err(refused),
        };
        match self.write(&key, value.clone(), 0, first).await {
            Err(BucketError::Conflict) => match self.last(&key).await? {
                // A deletion leaves a marker with a revision of its own, which is not an entry.
                Some(message) if is_removed(&message) => {
                    self.update(&key, value, message.sequence).await
                }
                _ => Err(BucketError::Conflict),
            },
            outcome => outcome,
        }
    }

    /// Writes a value if the key is still at a revision, and returns the new one.
    pub(crate) async fn update(
        &self,
        key: &str,
        value: Bytes,
        revision: u64,
    ) -> Result<u64, BucketError> {
        let message = PublishMessage::build().payload(value.clone());
        let first = self.publish(key, message, revision).await;
        self.write(key, value, revision, first).await
    }

    /// Writes a value, given the result of the first try.
    async fn write(
        &self,
        key: &str,
        value: Bytes,
        revision: u64,
        first: Result<u64, Refused>,
    ) -> Result<u64, BucketError> {
        let mut unavailable = None;
        let mut first = Some(first);
        let mut pauses = BUSY.pauses();
        for attempt in 0..MAX_WRITE_TRIES {
            let outcome = match first.take() {
                Some(first) => first,
                None => {
                    let message = PublishMessage::build().payload(value.clone());
                    self.publish(key, message, revision).await
                }
            };
            match outcome {
                Ok(revision) => return Ok(revision),
                Err(Refused(Refusal::WrongRevision, _)) if unavailable.is_some() => {
                    return self.settle(key, &value).await;
                }
                Err(Refused(Refusal::Busy, _)) => pauses.wait().await,
                // It may have been stored nevertheless. Writing again shows that: the revision is
                // wrong then, and the value is ours.
                Err(Refused(Refusal::Unknown | Refusal::TooLarge, error)) if attempt < 2 => {
                    unavailable = Some(error);
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        let error = unavailable.unwrap_or_else(|| "the subject stayed busy".into());
        Err(BucketError::Unavailable(error))
    }

    /// Removes an entry if it still has its revision.
    pub(crate) async fn delete(&self, key: &str, revision: u64) -> Result<(), BucketError> {
        let mut pauses = BUSY.pauses();
        for _ in 0..MAX_WRITE_TRIES {
            let message = PublishMessage::build().header(OPERATION, "DEL");
            match self.publish(key, message, revision).await {
                Ok(_revision) => return Ok(()),
                Err(Refused(Refusal::Busy, _)) => pauses.wait().await,
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(BucketError::Unavailable("the subject stayed busy".into()))
    }

    /// Finds out whether a refused write had succeeded at an earlier try.
    async fn settle(&self, key: &str, value: &Bytes) -> Result<u64, BucketError> {
        match self.get(key).await? {
            Some(entry) if entry.value == value => Ok(entry.revision),
            _ => Err(BucketError::Conflict),
        }
    }

    async fn publish(
        &self,
        key: &str,
        message: PublishMessage,
        revision: u64,
    ) -> Result<u64, Refused> {
        acknowledged(self.send(key, message, revision).await?).await
    }

    async fn send(
        &self,
        key: &str,
        message: PublishMessage,
        revision: u64,
    ) -> Result<PublishAckFuture, Refused> {
        let message = message.expected_last_subject_sequence(revision);
        let sent = self.jetstream.send_publish(self.subject(key), message).await;
        sent.map_err(Refused::from)
    }
}

/// Waits for the server's answer to a write, and returns its revision.
async fn acknowledged(sent: PublishAckFuture) -> Result<u64, Refused> {
    Ok(sent.await?.sequence)
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        Self(Refusal::of(&error), error.into())
    }
}

impl From<Refused> for BucketError {
    fn from(Refused(refusal, error): Refused) -> Self {
        match refusal {
            Refusal::WrongRevision => Self::Conflict,
            // A bucket keeps one message for each key and replaces it: only its size is bounded.
            Refusal::Full | Refusal::SubjectTaken => Self::Full(error),
            Refusal::Busy | Refusal::TooLarge | Refusal::Unknown => Self::Unavailable(error),
        }
    }
}

fn is_removed(message: &StreamMessage) -> bool {
    message.headers.get(OPERATION).is_some()
}

/// The server's time of a message; the start of the epoch if it cannot be represented.
pub(crate) fn timestamp(message: &StreamMessage) -> Timestamp {
    Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).unwrap_or(Timestamp::UNIX_EPOCH)
}
