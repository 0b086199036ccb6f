// SPDX-License-Identifier: Apache-2.0

//! The events of a project as a stream that can be resumed without gap or duplicate.
//!
//! A client that resumes, or asks for what was before, reads the stream `EVENTS` up to where the
//! broadcast stood when it subscribed, and the broadcast from there (see `feed`).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Uri};
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::read::Reader;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::logs::{event_stream, last_event_id};
use crate::app::App;
use crate::extract::{InProject, Parameters};
use crate::feed::{Arrived, Notice, Subscription, Told};
use crate::metrics::Metrics;
use crate::problem::{ApiError, Code, chain};
use crate::sse;

/// How many frames wait for a client before it loses its place in the broadcast. An event has a
/// few KiB.
const MAX_WAITING: usize = 64;

/// How long a client may leave its events unread. It comes back with the last id it saw.
const STUCK: Duration = Duration::from_secs(30);

/// How long NATS may take to open a reader.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn follow(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["build", "after", "follow"]);
    let build = parameters.parsed("build", "invalid_build_id");
    let after = parameters.parsed("after", "invalid_event_id");
    let follow = parameters.switch("follow", true);
    let resumed = last_event_id(&headers, &mut parameters);
    parameters.finish()?;
    let subscription = app.feed.subscribe();
    let mut client = Client { project, build, last: 0, sink: mpsc::channel(1).0 };
    let (history, until) = match resumed.or(after) {
        // Without following, everything there was is what was asked for.
        None if follow => {
            client.last = subscription.head;
            (None, 0)
        }
        asked => {
            let (after, end) = start(&app, asked.unwrap_or(0), &subscription, follow).await?;
            client.last = after;
            let until = if follow { subscription.position } else { end };
            (history(&app, &client, until).await?, until)
        }
    };
    let (sink, frames) = mpsc::channel(MAX_WAITING);
    client.sink = sink;
    let task = Arc::clone(&app);
    app.tasks.spawn(async move {
        let live = follow.then_some(subscription);
        let stopped = task.stop.clone();
        stopped.run_until_cancelled(serve(&task, client, history, until, live)).await;
    });
    Ok(event_stream(frames))
}

/// Returns behind which sequence to start, and where the stream ends.
async fn start(
    app: &App,
    asked: u64,
    subscription: &Subscription,
    follow: bool,
) -> Result<(u64, u64), ApiError> {
    if follow && asked <= subscription.position && subscription.position == subscription.head {
        return Ok((asked, subscription.position));
    }
    let position = in_time(app, app.queue.events_position()).await?;
    let end = position.last_sequence.max(subscription.position);
    // An id that no event has yet was given out by a stream that is gone: start over.
    Ok((if asked > end { 0 } else { asked }, end))
}

/// Opens a reader of what lies between the client's last event and `until`, if anything does.
async fn history(app: &App, client: &Client, until: u64) -> Result<Option<Reader>, ApiError> {
    if client.last >= until {
        return Ok(None);
    }
    let filter = app.queue.subjects().events_of(&client.project);
    let reader = in_time(app, app.queue.read_events(&filter, client.last)).await?;
    Ok((reader.pending() > 0).then_some(reader))
}

async fn in_time<T>(
    app: &App,
    answer: impl Future<Output = Result<T, slipway_queue::read::ReadError>>,
) -> Result<T, ApiError> {
    let unavailable = || {
        let detail = "NATS does not answer: come back with the same Last-Event-ID";
        ApiError::new(Code::QueueUnavailable, detail)
    };
    if !app.queue.is_connected() {
        return Err(unavailable());
    }
    Ok(tokio::time::timeout(DEADLINE, answer).await.map_err(|_elapsed| unavailable())??)
}

/// The client went away.
struct Gone;

/// Who is told what.
struct Client {
    project: ProjectName,
    /// Only events of this build, if one was named.
    build: Option<BuildId>,
    /// The sequence of the last event it was told, or did not want.
    last: u64,
    sink: mpsc::Sender<Bytes>,
}

impl Client {
    async fn tell(&mut self, notice: &Notice) -> Result<(), Gone> {
        if notice.sequence <= self.last {
            return Ok(());
        }
        self.last = notice.sequence;
        let wanted =
            notice.project == self.project && self.build.is_none_or(|build| build == notice.build);
        if !wanted {
            return Ok(());
        }
        let sent = tokio::time::timeout(STUCK, self.sink.send(notice.frame.clone())).await;
        if sent.is_err() {
            tracing::info!("dropped a subscriber that does not read");
        }
        sent.ok().and_then(Result::ok).ok_or(Gone)
    }
}

/// Serves one client, to its end or the client's.
async fn serve(
    app: &App,
    mut client: Client,
    history: Option<Reader>,
    until: u64,
    live: Option<Subscription>,
) {
    if client.sink.send(sse::opening(client.last)).await.is_err() {
        return;
    }
    if let Some(reader) = history {
        let mut messages = reader.until_caught_up();
        while let Some(message) = messages.next().await {
            let arrived = match message {
                Ok(message) => Arrived::of(message),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "a reader of events broke off");
                    return;
                }
            };
            if arrived.sequence > until {
                break;
            }
            if let Some(notice) = arrived.notice()
                && client.tell(&notice).await.is_err()
            {
                return;
            }
        }
        client.last = client.last.max(until);
    }
    let Some(mut subscription) = live else { return };
    let mut alive = tokio::time::interval(sse::KEEP_ALIVE);
    alive.reset();
    loop {
        tokio::select! {
            told = subscription.receiver.recv() => match told {
                Ok(Told::Event(notice)) => {
                    if client.tell(&notice).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::info!(missed, "dropped a subscriber that reads too slowly");
                    Metrics::count(&app.metrics.subscribers_dropped);
                    return;
                }
                Ok(Told::Anew) | Err(RecvError::Closed) => return,
            },
            _ = alive.tick() => {
                if client.sink.send(sse::ALIVE).await.is_err() {
                    return;
                }
            }
            () = client.sink.closed() => return,
        }
    }
}
