// SPDX-License-Identifier: Apache-2.0

//! Live build records, changed by compare-and-set.

use std::collections::HashMap;

use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;
use slipway_proto::subject::{RecordKey, bucket_stream, bucket_subjects};
use slipway_proto::{Build, BuildId, ProjectName};

use crate::Queue;
use crate::bucket::{self, Bucket, BucketError};
use crate::json;
use crate::read::{Message, ReadError, Reader};

/// Reads and writes live build records.
#[derive(Debug, Clone)]
pub struct Records {
    bucket: Bucket,
}

/// A record with the revision that a compare-and-set must name.
#[derive(Debug, Clone)]
pub struct Record {
    /// The build.
    pub build: Build,
    /// Its revision: the sequence of its message in the bucket's stream.
    pub revision: u64,
}

/// The first record of a build, which was sent and may be stored.
pub struct Creating {
    build: Build,
    entry: bucket::Creating,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record already exists, or was changed in between. Read it again.
    #[error("the record was changed by another process")]
    Conflict,
    /// The bucket is full.
    #[error("the state bucket is full")]
    Full(#[source] async_nats::Error),
    /// The server did not answer in time.
    #[error("failed to reach the state bucket")]
    Unavailable(#[source] async_nats::Error),
    /// The stored bytes are not a record.
    #[error("the record of {0} does not parse")]
    Malformed(String, #[source] serde_json::Error),
}

impl From<BucketError> for RecordError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Conflict => Self::Conflict,
            BucketError::Full(source) => Self::Full(source),
            BucketError::Unavailable(source) => Self::Unavailable(source),
        }
    }
}

impl Record {
    /// Reads a stored record. If it was never changed, its revision is its order of acceptance.
    fn parse(subject: &str, value: &[u8], revision: u64) -> Result<Self, RecordError> {
        let mut build: Build = serde_json::from_slice(value)
            .map_err(|error| RecordError::Malformed(subject.to_owned(), error))?;
        if build.order == 0 {
            build.order = revision;
        }
        Ok(Self { build, revision })
    }
}

fn key(build: &Build) -> String {
    RecordKey::new(&build.request.project, build.request.build).to_string()
}

impl Records {
    pub(crate) fn new(jetstream: jetstream::Context, bucket: String) -> Self {
        Self { bucket: Bucket::new(jetstream, bucket) }
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
        let key = RecordKey::new(project, build).to_string();
        let Some(entry) = self.bucket.get(&key).await? else { return Ok(None) };
        Record::parse(&key, &entry.value, entry.revision).map(Some)
    }

    /// Writes the first record of a build, whose revision is its place in the order of acceptance.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when there is one already.
    pub async fn create(&self, build: Build) -> Result<Record, RecordError> {
        let creating = self.begin_create(build).await;
        self.finish_create(creating).await
    }

    /// Sends the first record of a build without waiting until it is stored. Builds are accepted in
    /// the order of these calls, except those that must be sent again.
    pub async fn begin_create(&self, build: Build) -> Creating {
        let entry = self.bucket.begin_create(key(&build), json::bytes(&build)).await;
        Creating { build, entry }
    }

    /// Waits until a first record is stored.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when there is one already.
    pub async fn finish_create(&self, creating: Creating) -> Result<Record, RecordError> {
        let Creating { mut build, entry } = creating;
        let revision = self.bucket.finish_create(entry).await?;
        if build.order == 0 {
            build.order = revision;
        }
        Ok(Record { build, revision })
    }

    /// Removes a record if it still has its revision, for a build that was not accepted after all.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when another process changed it in between.
    pub async fn delete(&self, record: &Record) -> Result<(), RecordError> {
        Ok(self.bucket.delete(&key(&record.build), record.revision).await?)
    }

    /// Writes a record if it still has the revision.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] when another process changed it in between.
    pub async fn update(&self, build: Build, revision: u64) -> Result<Record, RecordError> {
        let revision = self.bucket.update(&key(&build), json::bytes(&build), revision).await?;
        Ok(Record { build, revision })
    }
}

/// A stored record. A reader of thousands of changes a second parses only the part that it needs.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The JSON document of a [`Build`], if the bucket holds what it should. If it was never
    /// changed, its revision is its order of acceptance.
    pub document: Bytes,
    /// Its revision: the sequence of its message in the bucket's stream.
    pub revision: u64,
}

/// A change of a record, from a [`StateReader`].
#[derive(Debug)]
pub enum Seen {
    /// The record now.
    Record(Stored),
    /// The record was removed.
    Removed(ProjectName, BuildId),
    /// Not a record.
    Other,
}

/// Reads all live records, and then every change.
pub struct StateReader {
    reader: Reader,
}

impl StateReader {
    /// Returns how many records existed when the reader was opened.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.reader.pending()
    }

    /// Returns whether every existing change was read.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn is_at_end(&mut self) -> Result<bool, ReadError> {
        self.reader.is_at_end().await
    }

    /// Returns the changes that have arrived, waiting for the first as long as it takes. Of several
    /// changes of a record only the last is returned. The server sends each change at once, and
    /// each was the last when it was sent, so a reader that takes one and then pauses falls behind.
    ///
    /// # Errors
    ///
    /// When the server is lost. Open a new reader.
    pub async fn next_batch(&mut self) -> Result<Changes, ReadError> {
        let messages = self.reader.next_batch(MAX_CHANGES_AT_ONCE).await?;
        let read = messages.len();
        let more = messages.last().is_some_and(|message| message.pending > 0);
        let mut latest: HashMap<String, Message> = HashMap::with_capacity(read);
        for message in messages {
            latest.insert(message.subject.clone(), message);
        }
        let seen = latest.into_values().map(seen).collect();
        Ok(Changes { seen, read: read as u64, more: more || read == MAX_CHANGES_AT_ONCE })
    }
}

/// The largest number of changes that are returned at once.
const MAX_CHANGES_AT_ONCE: usize = 1024;

/// Changes of records, from a [`StateReader`].
#[derive(Debug)]
pub struct Changes {
    /// The last change of each record, in no order.
    pub seen: Vec<Seen>,
    /// How many changes there were.
    pub read: u64,
    /// Whether others follow that have not arrived, according to the server.
    pub more: bool,
}

fn seen(message: Message) -> Seen {
    if message.is_removal() {
        return match RecordKey::of_subject(&message.subject) {
            Some(RecordKey { project, build }) => Seen::Removed(project, build),
            None => Seen::Other,
        };
    }
    Seen::Record(Stored { document: message.payload, revision: message.sequence })
}

impl Queue {
    /// Reads a live record, within the deadline of [`Queue::with_read_deadline`] if there is one.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or the record does not parse.
    pub async fn record(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Record>, RecordError> {
        let read = self.records().get(project, build);
        let Some(deadline) = self.read_deadline else { return read.await };
        if !self.is_connected() {
            return Err(RecordError::Unavailable("the connection to NATS is lost".into()));
        }
        match tokio::time::timeout(deadline, read).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(RecordError::Unavailable(elapsed.into())),
        }
    }

    /// Reads every live record, oldest change first, and then every change as it happens.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn read_states(&self) -> Result<StateReader, ReadError> {
        let bucket = self.subjects.state_bucket();
        let (stream, filter) = (bucket_stream(&bucket), bucket_subjects(&bucket));
        // Each subject holds one message, so every message is the last of its subject. If asked for
        // the last of each subject, nats-server 2.9.10 counts every record again for each change
        // that it delivers to a reader that keeps up.
        let reader = Reader::open(self, &stream, &filter, DeliverPolicy::All).await?;
        Ok(StateReader { reader })
    }
}
