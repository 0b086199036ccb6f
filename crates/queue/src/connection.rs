// SPDX-License-Identifier: Apache-2.0

//! The connection to NATS: its options, its limits, and what the server reports over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, context::ContextBuilder};
use slipway_fault::Backoff;
use slipway_proto::subject::Subjects;
use slipway_secret::SecretUrl;
use tokio::sync::watch;

use crate::config::NatsConfig;
use crate::record::Records;

/// How long a JetStream request or an awaited acknowledgement may take.
///
/// Lower, and a server that flushes its disk looks dead. Higher, and a client of the HTTP API waits
/// that long for its 503.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the client pings the server. A dead connection is noticed after two pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The pauses between attempts to reconnect. The client's own default grows to 4 s, which is most
/// of what a worker has before it must give up its lease.
const RECONNECT: Backoff = Backoff::constant(16, 2, 500, 20);

/// How many published messages may wait for their acknowledgement at once. More publishers wait for
/// a place.
const MAX_ACKS_IN_FLIGHT: usize = 4096;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached or refuses.
    #[error("failed to connect to NATS at {url}")]
    Unreachable {
        /// The servers.
        url: SecretUrl,
        /// The client's error.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The credentials file cannot be read.
    #[error("failed to read the NATS credentials file {path}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The connection was closed already.
#[derive(Debug, thiserror::Error)]
#[error("failed to close the connection to NATS")]
pub struct CloseError(#[from] async_nats::client::DrainError);

impl ConnectError {
    /// Returns whether a server that cannot be reached may be reached soon; one that refuses will not
    /// change its mind.
    pub(crate) fn may_pass(&self) -> bool {
        use async_nats::ConnectErrorKind::{Dns, Io, MaxReconnects, TimedOut};
        match self {
            Self::Unreachable { source, .. } => {
                matches!(source.kind(), Io | TimedOut | Dns | MaxReconnects)
            }
            Self::Credentials { .. } => false,
        }
    }
}

/// Counts of what the server reported outside of answers. A denied permission shows only here: the
/// request itself looks like a timeout.
#[derive(Debug, Default)]
pub struct ClientEvents {
    /// Errors the server sent, such as denied permissions.
    pub server_errors: AtomicU64,
    /// Subscriptions that lost messages because they were read too slowly.
    pub slow_consumers: AtomicU64,
    /// Lost connections.
    pub disconnects: AtomicU64,
}

/// A connection to NATS with all operations of Slipway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(crate) jetstream: jetstream::Context,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) replicas: usize,
    records: Arc<Records>,
    events: Arc<ClientEvents>,
    /// Counts the connections that were made.
    pub(crate) connections: watch::Receiver<u64>,
    /// When the connection was last restored, in milliseconds since it was first made; 0 if never.
    reconnected: Arc<AtomicU64>,
    first_connected: Instant,
    pub(crate) read_deadline: Option<Duration>,
}

impl Queue {
    /// Tries once to connect, under a name that the server's list of connections shows.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the credentials.
    pub(crate) async fn connect_once(
        config: &NatsConfig,
        client_name: &str,
    ) -> Result<Self, ConnectError> {
        let events = Arc::new(ClientEvents::default());
        let seen = Arc::clone(&events);
        let (connected, connections) = watch::channel(0);
        let connected = Arc::new(connected);
        let (first_connected, reconnected) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let noted = Arc::clone(&reconnected);
        let mut connect = async_nats::ConnectOptions::new()
            .name(client_name)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|attempt| {
                RECONNECT.pause(u32::try_from(attempt).unwrap_or(u32::MAX), &mut rand::rng())
            })
            .event_callback(move |event| {
                let (seen, connected) = (Arc::clone(&seen), Arc::clone(&connected));
                let noted = Arc::clone(&noted);
                async move {
                    note(&seen, &event);
                    if matches!(event, async_nats::Event::Connected) {
                        connected.send_modify(|count| *count += 1);
                        if seen.disconnects.load(Ordering::Relaxed) > 0 {
                            let age = first_connected.elapsed().as_millis();
                            noted.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
                        }
                    }
                }
            });
        if let (Some(user), Some(password)) = (&config.nats_user, &config.nats_password) {
            connect = connect.user_and_password(user.clone(), password.expose().to_owned());
        }
        if let Some(token) = &config.nats_token {
            connect = connect.token(token.expose().to_owned());
        }
        if let Some(seed) = &config.nats_nkey {
            connect = connect.nkey(seed.expose().to_owned());
        }
        if let Some(path) = &config.nats_credentials {
            connect = connect.credentials_file(path).await.map_err(|source| {
                ConnectError::Credentials { path: path.display().to_string(), source }
            })?;
        }
        let servers: Vec<&str> = config.nats_url.expose().split(',').map(str::trim).collect();
        let client = connect
            .connect(servers)
            .await
            .map_err(|source| ConnectError::Unreachable { url: config.nats_url.clone(), source })?;
        let jetstream = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(MAX_ACKS_IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client);
        let subjects = Subjects::from(config.prefix.clone());
        let records = Records::new(jetstream.clone(), subjects.state_bucket());
        Ok(Self {
            records: Arc::new(records),
            jetstream,
            subjects: Arc::new(subjects),
            replicas: config.replicas,
            events,
            connections,
            reconnected,
            first_connected,
            read_deadline: None,
        })
    }

    /// Returns the same connection for a process whose clients wait: a record is not waited for
    /// longer than this, and not at all while the connection is lost.
    #[must_use]
    pub fn with_read_deadline(self, deadline: Duration) -> Self {
        Self { read_deadline: Some(deadline), ..self }
    }

    /// Returns the subjects for the prefix.
    #[must_use]
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// Returns the version of the connected server.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.jetstream.client().server_info().version
    }

    /// Returns what the server reported outside of answers.
    #[must_use]
    pub fn client_events(&self) -> &ClientEvents {
        &self.events
    }

    /// Returns whether the connection was lost and restored within the last `period`.
    #[must_use]
    pub fn reconnected_within(&self, period: Duration) -> bool {
        let reconnected = Duration::from_millis(self.reconnected.load(Ordering::Relaxed));
        !reconnected.is_zero() && self.first_connected.elapsed() < reconnected + period
    }

    /// Returns whether there is a connection at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.jetstream.client().connection_state() == async_nats::connection::State::Connected
    }

    /// Returns the live records of builds.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Sends what is buffered and closes the connection.
    ///
    /// # Errors
    ///
    /// When the connection is already closed.
    pub async fn close(&self) -> Result<(), CloseError> {
        Ok(self.jetstream.client().drain().await?)
    }
}

fn note(seen: &ClientEvents, event: &async_nats::Event) {
    match event {
        async_nats::Event::ServerError(error) => {
            seen.server_errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "the NATS server reported an error");
        }
        async_nats::Event::SlowConsumer(subscription) => {
            seen.slow_consumers.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(subscription, "a NATS subscription was read too slowly");
        }
        async_nats::Event::Disconnected => {
            seen.disconnects.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("lost the connection to NATS, reconnecting");
        }
        other => tracing::debug!(event = %other, "NATS client event"),
    }
}
