// SPDX-License-Identifier: Apache-2.0

//! Reads a stream in order: the whole history, or the history and what follows.

pub(crate) mod error;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedError;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::{FutureExt as _, Stream, StreamExt as _};
use slipway_proto::Timestamp;
use tokio::task::unconstrained;

use crate::Queue;
use crate::bucket::OPERATION;
use crate::reconnect::Reconnections;
pub use error::ReadError;
pub(crate) use error::is_missing;

/// How long the server may keep a reader waiting before it counts as gone. Pending messages must
/// arrive, so this only limits the wait for a server that died meanwhile.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// The silence after which the server's pending count is doubted, because 2.9.10 sometimes counts
/// one too many after a sequence.
const DOUBT_AFTER: Duration = Duration::from_millis(300);

/// The silence after which a reader asks whether there is something to read. The readers of a
/// server end with it, and a client connected to another server of the cluster gets no notice: the
/// next messages lay unread for half a minute.
const SILENCE: Duration = Duration::from_secs(2);

/// How long an existing message may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Reads one stream in order, from a point on.
pub struct Reader {
    jetstream: jetstream::Context,
    stream: String,
    filter: String,
    pending: u64,
    /// The sequence of the last message that was read, or the one before the first to read.
    last: u64,
    messages: pull::Ordered,
    pub(crate) reconnections: Reconnections,
}

/// A message of a stream.
#[derive(Debug)]
pub struct Message {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How many messages of the filter followed it at that time.
    pub pending: u64,
    /// When it was stored, by the server's clock.
    pub time: Timestamp,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub(crate) headers: Option<async_nats::HeaderMap>,
    /// Its bytes.
    pub payload: bytes::Bytes,
}

impl Message {
    /// Returns whether the message removes an entry of a bucket.
    pub(crate) fn is_removal(&self) -> bool {
        self.header(OPERATION).is_some()
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }
}

impl Reader {
    /// Starts to read.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub(crate) async fn open(
        queue: &Queue,
        stream: &str,
        filter: &str,
        from: DeliverPolicy,
    ) -> Result<Self, ReadError> {
        let unavailable = |source: async_nats::Error| ReadError::Unavailable {
            stream: stream.to_owned(),
            source,
        };
        let reconnections = queue.reconnections();
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
        let last = match &consumer.cached_info().config.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.saturating_sub(1),
            _ => 0,
        };
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| unavailable(error.into()))?;
        Ok(Self {
            jetstream: queue.jetstream.clone(),
            stream: stream.to_owned(),
            filter: filter.to_owned(),
            pending,
            last,
            messages,
            reconnections,
        })
    }

    /// Returns how many messages were waiting when the reader was opened.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Returns the next message, waiting for it as long as it takes.
    ///
    /// # Errors
    ///
    /// When the server is lost, or the connection was restored. Open a new reader after the last
    /// sequence seen.
    pub async fn follow(&mut self) -> Result<Message, ReadError> {
        let Self { messages, reconnections, .. } = self;
        let next = tokio::select! {
            next = messages.next() => next,
            () = reconnections.next() => {
                return Err(ReadError::Reconnected { stream: self.stream.clone() });
            }
        };
        self.read(next)
    }

    /// Returns the next message, even if the connection was restored.
    async fn next(&mut self) -> Result<Message, ReadError> {
        let next = self.messages.next().await;
        self.read(next)
    }

    fn read(
        &mut self,
        next: Option<Result<async_nats::jetstream::Message, OrderedError>>,
    ) -> Result<Message, ReadError> {
        match next {
            Some(Ok(message)) => {
                let message = self.convert(message)?;
                self.last = message.sequence;
                Ok(message)
            }
            Some(Err(error)) => {
                Err(ReadError::Unavailable { stream: self.stream.clone(), source: error.into() })
            }
            None => Err(ReadError::Stalled { stream: self.stream.clone() }),
        }
    }

    /// Returns at most `max` messages that are there, waiting for the first as long as it takes, so
    /// that a reader of a long history is woken once for many. Notices when the server has lost the
    /// reader.
    ///
    /// # Errors
    ///
    /// When the server is lost, or the connection was restored. Open a new reader after the last
    /// message that was returned.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<Message>, ReadError> {
        let mut batch = vec![self.next_watched().await?];
        // The runtime lets a task take at most 128 items without yielding, and then reports "not
        // ready". This loop ends by itself.
        while batch.len() < max
            && let Some(message) = unconstrained(self.next()).now_or_never()
        {
            batch.push(message?);
        }
        Ok(batch)
    }

    /// Returns the next message, waiting for it if there is none.
    async fn next_watched(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Ok(next) = tokio::time::timeout(SILENCE, self.follow()).await {
                return next;
            }
            if !self.is_at_end().await? {
                let next = tokio::time::timeout(ON_ITS_WAY, self.follow()).await;
                return next.unwrap_or_else(|_elapsed| {
                    Err(ReadError::Stalled { stream: self.stream.clone() })
                });
            }
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
            match reader.next_or_end().await {
                Ok(Some(message)) => {
                    let more = message.pending > 0;
                    Some((Ok(message), more.then_some(reader)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// Returns the messages up to a sequence from the leader of the stream, and then ends. On a
    /// cluster the reader's own replica may lag, and count too few.
    pub fn until(
        self,
        last: Option<u64>,
    ) -> impl Stream<Item = Result<Message, ReadError>> + Unpin {
        let start = last.map(|last| (self, last));
        Box::pin(futures::stream::unfold(start, |state| async move {
            let (mut reader, last) = state?;
            match tokio::time::timeout(SILENT_FOR, reader.next()).await {
                Ok(Ok(message)) => {
                    let more = message.sequence < last;
                    Some((Ok(message), more.then_some((reader, last))))
                }
                Ok(Err(error)) => Some((Err(error), None)),
                Err(_elapsed) => {
                    let stream = reader.stream.clone();
                    Some((Err(ReadError::Stalled { stream }), None))
                }
            }
        }))
    }

    /// Returns the next message; `None` if there is none, whatever the server counted.
    async fn next_or_end(&mut self) -> Result<Option<Message>, ReadError> {
        if let Ok(next) = tokio::time::timeout(DOUBT_AFTER, self.next()).await {
            return next.map(Some);
        }
        if self.is_at_end().await? {
            return Ok(None);
        }
        match tokio::time::timeout(SILENT_FOR, self.next()).await {
            Ok(next) => next.map(Some),
            Err(_elapsed) => Err(ReadError::Stalled { stream: self.stream.clone() }),
        }
    }

    /// Returns whether the stream holds no message of the filter after the last one that was read.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn is_at_end(&mut self) -> Result<bool, ReadError> {
        Ok(self.end().await? <= self.last)
    }

    /// Returns the sequence of the last message that was read.
    pub(crate) fn position(&self) -> u64 {
        self.last
    }

    /// Returns the sequence of the last message of the filter, by the leader of the stream; 0 if
    /// there is none.
    pub(crate) async fn end(&mut self) -> Result<u64, ReadError> {
        let unavailable = |source: async_nats::Error| ReadError::Unavailable {
            stream: self.stream.clone(),
            source,
        };
        let stream = self.jetstream.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| unavailable(error.into()))?;
        match stream.get_last_raw_message_by_subject(&self.filter).await {
            Ok(message) => Ok(message.sequence),
            Err(error) if is_missing(&error) => Ok(0),
            Err(error) => Err(unavailable(error.into())),
        }
    }
}
