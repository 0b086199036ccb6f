// SPDX-License-Identifier: Apache-2.0

//! Reading a stream in order: a whole history, or a history and what follows.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use futures::{Stream, StreamExt as _};
use slipway_proto::Timestamp;

use crate::Queue;

/// How long the server may keep a reader waiting before it counts as gone. A reader that found
/// messages pending must get them; this only bounds a server that died meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server refused or did not answer.
    #[error("failed to read the stream {stream}")]
    Unavailable {
        /// The stream.
        stream: String,
        /// The client's error.
        #[source]
        source: async_nats::Error,
    },
    /// The server stopped answering in the middle.
    #[error("the stream {stream} stopped answering")]
    Stalled {
        /// The stream.
        stream: String,
    },
}

/// Returns whether the server says that a subject holds no message.
pub(crate) fn is_missing(error: &LastRawMessageError) -> bool {
    match error.kind() {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(inner) => {
            inner.error_code() == ErrorCode::NO_MESSAGE_FOUND
        }
        _ => false,
    }
}

/// Reads one stream in order, from a point on.
pub struct Reader {
    stream: String,
    pending: u64,
    messages: pull::Ordered,
}

/// A message of a stream.
#[derive(Debug)]
pub struct Message {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How many messages of the filter follow it at this time.
    pub pending: u64,
    /// When it was stored, by the server's clock.
    pub time: Timestamp,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Option<async_nats::HeaderMap>,
    /// Its bytes.
    pub payload: bytes::Bytes,
}

impl Reader {
    /// Starts to read.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn open(
        queue: &Queue,
        stream: &str,
        filter: &str,
        from: DeliverPolicy,
    ) -> Result<Self, ReadError> {
        let unavailable = |source: async_nats::Error| ReadError::Unavailable {
            stream: stream.to_owned(),
            source,
        };
        let config = pull::OrderedConfig {
            filter_subject: filter.to_owned(),
            deliver_policy: from,
            ..Default::default()
        };
        let consumer = queue
            .jetstream
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(|error| unavailable(error.into()))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| unavailable(error.into()))?;
        Ok(Self { stream: stream.to_owned(), pending, messages })
    }

    /// Returns how many messages stood before the reader when it was opened.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Returns the next message, waiting for it as long as it takes.
    ///
    /// # Errors
    ///
    /// When the server is lost; open a new reader behind the last sequence seen.
    pub async fn next(&mut self) -> Result<Message, ReadError> {
        match self.messages.next().await {
            Some(Ok(message)) => self.convert(message),
            Some(Err(error)) => {
                Err(ReadError::Unavailable { stream: self.stream.clone(), source: error.into() })
            }
            None => Err(ReadError::Stalled { stream: self.stream.clone() }),
        }
    }

    fn convert(&self, message: async_nats::jetstream::Message) -> Result<Message, ReadError> {
        let info = message
            .info()
            .map_err(|source| ReadError::Unavailable { stream: self.stream.clone(), source })?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let (message, _acker) = message.split();
        Ok(Message {
            sequence,
            pending,
            time,
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
        })
    }

    /// Returns the messages that are in the stream now, and then ends.
    pub fn until_caught_up(self) -> impl Stream<Item = Result<Message, ReadError>> + Unpin {
        let empty = self.pending == 0;
        let start = (!empty).then_some(self);
        Box::pin(futures::stream::unfold(start, |reader| async move {
            let mut reader = reader?;
            match tokio::time::timeout(READ_TIMEOUT, reader.next()).await {
                Ok(Ok(message)) => {
                    let more = message.pending > 0;
                    Some((Ok(message), more.then_some(reader)))
                }
                Ok(Err(error)) => Some((Err(error), None)),
                Err(_elapsed) => {
                    let stream = reader.stream.clone();
                    Some((Err(ReadError::Stalled { stream }), None))
                }
            }
        }))
    }
}
