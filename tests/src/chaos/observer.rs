// SPDX-License-Identifier: Apache-2.0

//! Reads the contents of NATS into the history, over a connection that no fault touches.
//!
//! Events are read at the end of the run, from the first to the last, including those a subscriber
//! missed while the server was dead. Logs are purged a minute after a build's end, and only the
//! last revision of a record is kept. So both are followed as they arrive, after the last sequence
//! that was seen, however often the server dies meanwhile.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Message};
use futures::StreamExt as _;
use slipway_proto::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::history::{ChunkSeen, EventSeen, History, RecordSeen, What};

/// How long a silent subscription is trusted.
const SUBSCRIPTION_SILENCE: Duration = Duration::from_secs(3);

/// How long the server may take to answer.
const NATS_DEADLINE: Duration = Duration::from_secs(5);

const READ_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// A source of the history in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Events.
    Events,
    /// Chunks of logs.
    Logs,
    /// Records of builds as they change.
    Records,
    /// Records of builds, at rest.
    LastRecords,
}

impl Source {
    fn stream(self) -> &'static str {
        match self {
            Self::Events => "EVENTS",
            Self::Logs => "LOGS",
            Self::Records | Self::LastRecords => "KV_slipway-state",
        }
    }

    fn read(self, message: &Message) -> Option<(u64, What)> {
        let info = message.info().ok()?;
        let sequence = info.stream_sequence;
        let stored_at = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos()).ok()?;
        let header = |name: &str| {
            let value = message.headers.as_ref()?.get(name)?;
            Some(value.as_str().to_owned())
        };
        let build = message.subject.rsplit('.').next()?.to_owned();
        let what = match self {
            Self::Events => {
                let event = serde_json::from_slice(&message.payload).unwrap_or_default();
                What::Event(EventSeen { sequence, stored_at, event })
            }
            Self::Logs => What::Chunk(ChunkSeen {
                sequence,
                stored_at,
                build,
                epoch: header("Slipway-Log-Epoch")?.parse().ok()?,
                number: header("Slipway-Log-Chunk")?.parse().ok()?,
                digest: header("Slipway-Log-Digest"),
                text: String::from_utf8_lossy(&message.payload).into_owned(),
            }),
            Self::Records | Self::LastRecords => {
                let deleted = header("KV-Operation").is_some();
                let record = serde_json::from_slice(&message.payload).ok().filter(|_| !deleted);
                let last = self == Self::LastRecords;
                What::Record(RecordSeen { revision: sequence, stored_at, build, record, last })
            }
        };
        Some((sequence, what))
    }
}

/// Follows a stream until it is stopped.
pub struct Follower {
    source: Source,
    url: String,
    history: History,
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Follower {
    /// Starts to follow a stream from its beginning.
    #[must_use]
    pub fn start(source: Source, url: &str, history: &History) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(follow(source, url.to_owned(), history.clone(), stopped));
        Self { source, url: url.to_owned(), history: history.clone(), stop, task }
    }

    /// Stops following, and reads the rest.
    ///
    /// # Errors
    ///
    /// When the server does not deliver it.
    ///
    /// # Panics
    ///
    /// When the following task panicked.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let last = self.task.await.expect("following does not panic");
        let note = |_: u64, what| self.history.note(what);
        read_all(self.source, &self.url, last, note).await?;
        Ok(())
    }
}

async fn follow(
    source: Source,
    url: String,
    history: History,
    mut stopped: watch::Receiver<bool>,
) -> u64 {
    let mut last = 0;
    while !*stopped.borrow() {
        let Ok(mut messages) = open(source, &url, last).await.map(|(messages, _)| messages) else {
            tokio::time::sleep(READ_RETRY_INTERVAL).await;
            continue;
        };
        loop {
            let next = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return last,
                next = tokio::time::timeout(SUBSCRIPTION_SILENCE, messages.next()) => next,
            };
            // Whatever is wrong with the subscription, a new one continues after the last message.
            let Ok(Some(Ok(message))) = next else { break };
            if let Some((sequence, what)) = source.read(&message)
                && sequence > last
            {
                last = sequence;
                history.note(what);
            }
        }
    }
    last
}

/// Reads everything in a stream after a sequence, and returns the last sequence.
///
/// # Errors
///
/// When the server does not deliver it in time.
pub async fn read_all(
    source: Source,
    url: &str,
    after: u64,
    mut take: impl FnMut(u64, What),
) -> anyhow::Result<u64> {
    const READ_TRIES: u32 = 20;
    let mut last = after;
    for _ in 0..READ_TRIES {
        let Ok((mut messages, mut pending)) = open(source, url, last).await else {
            tokio::time::sleep(READ_RETRY_INTERVAL).await;
            continue;
        };
        while pending > 0 {
            let next = tokio::time::timeout(NATS_DEADLINE, messages.next()).await;
            let Ok(Some(Ok(message))) = next else { break };
            pending = message.info().map_or(pending, |info| info.pending);
            if let Some((sequence, what)) = source.read(&message)
                && sequence > last
            {
                last = sequence;
                take(sequence, what);
            }
        }
        if pending == 0 {
            return Ok(last);
        }
    }
    anyhow::bail!("the stream {} cannot be read", source.stream())
}

async fn open(source: Source, url: &str, after: u64) -> anyhow::Result<(pull::Ordered, u64)> {
    let opening = async {
        let servers: Vec<&str> = url.split(',').collect();
        let client = async_nats::ConnectOptions::new()
            .connection_timeout(NATS_DEADLINE)
            .request_timeout(Some(NATS_DEADLINE))
            .connect(servers)
            .await?;
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ..Default::default()
        };
        let context = jetstream::new(client);
        let consumer = context.create_consumer_on_stream(config, source.stream()).await?;
        let pending = consumer.cached_info().num_pending;
        Ok::<_, anyhow::Error>((consumer.messages().await?, pending))
    };
    tokio::time::timeout(2 * NATS_DEADLINE, opening).await?
}

/// The state of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueState {
    /// The number of messages in it.
    pub messages: u64,
    /// How many of them are not acknowledged, by consumer.
    pub ack_pending: Vec<(String, u64)>,
}

impl QueueState {
    /// Returns how many messages are left: those in the stream, or those that a consumer still
    /// counts.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.messages.max(self.ack_pending.iter().map(|(_, count)| count).sum())
    }
}

/// Reads the state of the queue.
///
/// # Errors
///
/// When the server does not answer.
pub async fn queue(url: &str) -> anyhow::Result<QueueState> {
    let asking = async {
        let servers: Vec<&str> = url.split(',').collect();
        let client = async_nats::connect(servers).await?;
        let mut stream = jetstream::new(client).get_stream("BUILDS").await?;
        let messages = stream.info().await?.state.messages;
        let mut consumers = stream.consumers();
        let mut ack_pending = Vec::new();
        while let Some(consumer) = consumers.next().await {
            let consumer = consumer?;
            let pending = u64::try_from(consumer.num_ack_pending).unwrap_or(u64::MAX);
            ack_pending.push((consumer.name, pending));
        }
        Ok::<_, anyhow::Error>(QueueState { messages, ack_pending })
    };
    tokio::time::timeout(NATS_DEADLINE, asking).await?
}

/// Returns the last sequences of the streams that every build writes to.
///
/// # Errors
///
/// When the server does not answer.
pub async fn written(url: &str) -> anyhow::Result<Vec<u64>> {
    let asking = async {
        let servers: Vec<&str> = url.split(',').collect();
        let context = jetstream::new(async_nats::connect(servers).await?);
        let mut last = Vec::new();
        for stream in ["BUILDS", "EVENTS", "KV_slipway-state"] {
            last.push(context.get_stream(stream).await?.cached_info().state.last_sequence);
        }
        Ok::<_, anyhow::Error>(last)
    };
    tokio::time::timeout(NATS_DEADLINE, asking).await?
}

/// Returns the version of a NATS server.
///
/// # Errors
///
/// When it does not answer.
pub async fn server_version(url: &str) -> anyhow::Result<String> {
    let servers: Vec<&str> = url.split(',').collect();
    Ok(async_nats::connect(servers).await?.server_info().version)
}
