// SPDX-License-Identifier: Apache-2.0

//! Chunks of build logs in the stream `LOGS`.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, Digest, ProjectName};

use crate::Queue;
use crate::publish::PublishError;
use crate::query::QueryError;
use crate::read::{Message, ReadError, Reader, is_missing};

/// The claim of a chunk's attempt.
const EPOCH: &str = "Slipway-Log-Epoch";
/// A chunk's number within its attempt.
const NUMBER: &str = "Slipway-Log-Chunk";
/// On the last chunk of an attempt: the digest of all its lines.
const DIGEST: &str = "Slipway-Log-Digest";

/// A log of at most this many chunks is read one by one. A reader is a consumer that the server
/// makes and removes again, and most logs have two chunks.
const MAX_CHUNKS_READ_SINGLY: u64 = 8;

/// A part of the log of one attempt.
#[derive(Debug, Clone)]
pub struct LogChunk<'a> {
    /// The claim of the attempt.
    pub epoch: Epoch,
    /// Its number within the attempt, from 0 and without gaps.
    pub number: u64,
    /// Whole lines.
    pub text: Bytes,
    /// On the last chunk: the digest of all the attempt's lines.
    pub whole: Option<&'a Digest>,
}

/// The end of a log in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The sequence of the last chunk.
    pub sequence: u64,
    /// Whether it is the last of its attempt. Otherwise the worker may still add to it.
    pub is_closed: bool,
    /// How many chunks the log has, if that is known because its build had one attempt.
    chunks: Option<u64>,
    text: Bytes,
}

impl LogEnd {
    fn of(message: StreamMessage) -> Self {
        let text = |name: &str| message.headers.get(name).map(async_nats::HeaderValue::as_str);
        let number = text(NUMBER).and_then(|number| number.parse::<u64>().ok());
        Self {
            sequence: message.sequence,
            is_closed: text(DIGEST).is_some(),
            chunks: number.filter(|_| text(EPOCH) == Some("1")).map(|number| number + 1),
            text: message.payload,
        }
    }
}

impl Queue {
    /// Publishes a chunk of a build's log and waits until it is stored. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn publish_log(
        &self,
        project: &ProjectName,
        build: BuildId,
        chunk: LogChunk<'_>,
    ) -> Result<(), PublishError> {
        let LogChunk { epoch, number, text, whole } = chunk;
        let mut message = PublishMessage::build()
            .payload(text)
            .message_id(format!("{build}:{epoch}:log:{number}"))
            .header(EPOCH, epoch.to_string().as_str())
            .header(NUMBER, number.to_string().as_str());
        if let Some(digest) = whole {
            message = message.header(DIGEST, digest.to_string().as_str());
        }
        let subject = self.subjects.log(project, build);
        self.confirmed(subject, message).await
    }

    /// Reads a build's log from its first chunk, or after a sequence.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn read_log(
        &self,
        project: &ProjectName,
        build: BuildId,
        after: Option<u64>,
    ) -> Result<Reader, ReadError> {
        let from = after.map_or(DeliverPolicy::All, |sequence| DeliverPolicy::ByStartSequence {
            start_sequence: sequence + 1,
        });
        Reader::open(self, &self.subjects.logs_stream(), &self.subjects.log(project, build), from)
            .await
    }

    /// Reads all of a build's log that the stream holds. The stream's leader is asked for its end.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn whole_log(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<impl Stream<Item = Result<Message, ReadError>> + Unpin + use<>, ReadError> {
        let end = self.end_of_log(project, build).await?;
        Ok(self.read_log(project, build, None).await?.until(end.map(|end| end.sequence)))
    }

    /// Reads a build's log up to its known end.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn log_up_to(
        &self,
        project: &ProjectName,
        build: BuildId,
        end: LogEnd,
    ) -> Result<impl Stream<Item = Result<Bytes, ReadError>> + Send + Unpin + use<>, ReadError>
    {
        if end.chunks.is_none_or(|chunks| chunks > MAX_CHUNKS_READ_SINGLY) {
            let reader = self.read_log(project, build, None).await?;
            return Ok(reader
                .until(Some(end.sequence))
                .map_ok(|chunk| chunk.payload)
                .left_stream());
        }
        let chunks = self.few_chunks(project, build, end).await.map_err(|source| {
            ReadError::Unavailable { stream: self.subjects.logs_stream(), source }
        })?;
        Ok(futures::stream::iter(chunks.into_iter().map(Ok)).right_stream())
    }

    async fn few_chunks(
        &self,
        project: &ProjectName,
        build: BuildId,
        end: LogEnd,
    ) -> Result<Vec<Bytes>, async_nats::Error> {
        let mut chunks = Vec::new();
        if end.chunks > Some(1) {
            let stream = self.jetstream.get_stream_no_info(self.subjects.logs_stream()).await?;
            let subject = self.subjects.log(project, build);
            let mut from = 1;
            loop {
                let message = stream.get_first_raw_message_by_subject(&subject, from).await?;
                if message.sequence >= end.sequence {
                    break;
                }
                from = message.sequence + 1;
                let here = LogEnd::of(message);
                chunks.push(here.text);
                // The next one is already there.
                if here.chunks.map(|chunks| chunks + 1) == end.chunks {
                    break;
                }
            }
        }
        chunks.push(end.text);
        Ok(chunks)
    }

    /// Returns the end of a build's log in the stream.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn end_of_log(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<LogEnd>, QueryError> {
        let name = self.subjects.logs_stream();
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| QueryError::of_stream(&name, error))?;
        let subject = self.subjects.log(project, build);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some(LogEnd::of(message))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(QueryError::of_stream(&name, error)),
        }
    }

    /// Removes a build's log from the stream.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn purge_log(&self, project: &ProjectName, build: BuildId) -> Result<(), QueryError> {
        let name = self.subjects.logs_stream();
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| QueryError::of_stream(&name, error))?;
        let purged = stream.purge().filter(self.subjects.log(project, build)).await;
        purged.map(drop).map_err(|error| QueryError::of_stream(&name, error))
    }
}
