// SPDX-License-Identifier: Apache-2.0

//! Follows an event stream of the dispatcher across its restarts.
//!
//! A task of its own reads the stream and sends events through a bounded channel. So a caller can
//! wait for other things at the same time without dropping a connection midway.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, CACHE_CONTROL};
use slipway_fault::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::{Client, ClientError, REQUEST_DEADLINE};
use crate::sse::{SseEvent, SseParser};

/// How long the stream may be silent. The dispatcher writes a comment every few seconds, so a
/// silence as long as this is a dead connection.
const STREAM_SILENCE_DEADLINE: Duration = Duration::from_secs(60);

/// How long the server may be away before following ends. Longer than any restart or roll-out.
const SERVER_AWAY_LIMIT: Duration = Duration::from_secs(600);

/// The pause before a stream that ended well is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);

/// The pauses between tries. Never long: people wait for a build and want to see its end soon.
const REOPEN_BACKOFF: Backoff = Backoff::constant(250, 2, 3_000, 20);

/// How many events may wait to be read.
const MAX_EVENTS_WAITING: usize = 256;

/// What happened on a followed stream.
#[derive(Debug)]
pub enum Followed {
    /// The stream is open; events from now on will be seen.
    Opened,
    /// An event.
    Event(SseEvent),
    /// The server ended the stream. It is opened again after a moment, following the last event.
    Ended,
    /// The connection broke or cannot be made. It is tried again for a while.
    Lost(ClientError),
}

/// Follows a stream until it is dropped.
#[derive(Debug)]
pub struct Follower {
    events: mpsc::Receiver<Result<Followed, ClientError>>,
    task: JoinHandle<()>,
}

impl Follower {
    pub(super) fn start(client: Client, url: Url) -> Self {
        let (sender, events) = mpsc::channel(MAX_EVENTS_WAITING);
        let task = tokio::spawn(async move {
            let mut stream = Stream { client, url, last_id: None, sender };
            if let Err(Stopped::Failed(error)) = stream.follow().await {
                let _ = stream.sender.send(Err(error)).await;
            }
        });
        Self { events, task }
    }

    /// Returns what happens next. Loses nothing when it is cancelled.
    ///
    /// # Errors
    ///
    /// When the server refuses, or has been away for too long. Nothing comes after that.
    pub async fn next(&mut self) -> Result<Followed, ClientError> {
        match self.events.recv().await {
            Some(followed) => followed,
            // The task sends its error last, so the channel is empty only after that.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why following stopped.
enum Stopped {
    Failed(ClientError),
    Dropped,
}

struct Stream {
    client: Client,
    url: Url,
    last_id: Option<String>,
    sender: mpsc::Sender<Result<Followed, ClientError>>,
}

impl Stream {
    async fn tell(&self, followed: Followed) -> Result<(), Stopped> {
        self.sender.send(Ok(followed)).await.map_err(|_| Stopped::Dropped)
    }

    async fn follow(&mut self) -> Result<(), Stopped> {
        let mut pauses = REOPEN_BACKOFF.pauses();
        let mut away_since = None;
        loop {
            let opened = self.open().await;
            let error = match opened {
                Ok(response) => {
                    pauses.reset();
                    away_since = None;
                    self.tell(Followed::Opened).await?;
                    match self.read(response).await? {
                        None => {
                            self.tell(Followed::Ended).await?;
                            sleep(REOPEN_PAUSE).await;
                            continue;
                        }
                        Some(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(Stopped::Failed(error));
            }
            let since = *away_since.get_or_insert_with(Instant::now);
            if since.elapsed() > SERVER_AWAY_LIMIT {
                return Err(Stopped::Failed(error));
            }
            self.tell(Followed::Lost(error)).await?;
            pauses.wait().await;
        }
    }

    async fn open(&self) -> Result<reqwest::Response, ClientError> {
        let mut request = self
            .client
            .request(Method::GET, self.url.clone())
            .header(ACCEPT, "text/event-stream")
            .header(CACHE_CONTROL, "no-store");
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        match timeout(REQUEST_DEADLINE, self.client.send(request)).await {
            Ok(opened) => opened,
            Err(_) => Err(self.client.silent(REQUEST_DEADLINE)),
        }
    }

    /// Sends events on until the stream ends (`None`) or breaks.
    async fn read(
        &mut self,
        mut response: reqwest::Response,
    ) -> Result<Option<ClientError>, Stopped> {
        let mut parser = SseParser::default();
        loop {
            let bytes = match self.client.next_piece(&mut response, STREAM_SILENCE_DEADLINE).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            let Ok(events) = parser.push(&bytes) else {
                return Ok(Some(ClientError::Unexpected {
                    server: self.client.shown(),
                    status: 200,
                    source: None,
                }));
            };
            for event in events {
                self.tell(Followed::Event(event)).await?;
            }
            if let Some(id) = parser.last_id() {
                self.last_id = Some(id.to_owned());
            }
        }
    }
}
