// SPDX-License-Identifier: Apache-2.0

//! The events of a project as a stream that can be resumed without gap or duplicate.
//!
//! A client that resumes, or asks for past events, reads the stream `EVENTS` up to the broadcast's
//! position at its subscription, and the broadcast from there on (see `feed`).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, Uri};
use slipway_fault::chain;
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::events::EventMessage;
use slipway_queue::read::ReadError;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, Interval};

use super::logs::{event_stream, last_event_id};
use crate::app::App;
use crate::events::feed::{Arrived, Notice, Subscription, Told};
use crate::http::extract::{InProject, Parameters};
use crate::http::problem::{ApiError, Code};
use crate::http::sse;
use crate::metrics::Metrics;

/// How long NATS may take to open a reader, and to report the stream's position after the start.
const POSITION_WITHIN: Duration = Duration::from_secs(5);

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
    if follow && tokio::time::timeout(POSITION_WITHIN, app.feed.aligned_once()).await.is_err() {
        let detail = "the dispatcher has just started and does not know the event stream's \
            position yet: come \
            back with the same Last-Event-ID";
        return Err(ApiError::new(Code::NotReady, detail));
    }
    let subscription = match build {
        Some(build) => app.feed.subscribe_to_build(build),
        None => app.feed.subscribe(&project),
    };
    let mut client = Client { project, build, last: 0 };
    let (history, until) = match resumed.or(after) {
        // Without following, the request is for all past events.
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
    let serving = Serving {
        opening: Some(sse::opening(client.last)),
        client,
        history,
        until,
        live: follow.then_some(subscription),
        alive: None,
        app: Arc::clone(&app),
    };
    let frames = stream::unfold(serving, |mut serving| async move {
        let frame = serving.next().await?;
        Some((frame, serving))
    });
    Ok(event_stream(Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>))))
}

/// Returns the sequence to start after, and the end of the stream.
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
    // An id that no event has yet comes from a stream that is gone, so start over.
    Ok((if asked > end { 0 } else { asked }, end))
}

/// Opens a reader of the events between the client's last one and `until`, if there are any.
async fn history(app: &App, client: &Client, until: u64) -> Result<Option<History>, ApiError> {
    if client.last >= until {
        return Ok(None);
    }
    let reader = app.queue.read_events(Some(&client.project), client.last);
    let reader = in_time(app, reader).await?;
    Ok((reader.pending() > 0).then(|| reader.until_caught_up().boxed()))
}

async fn in_time<T, E>(app: &App, answer: impl Future<Output = Result<T, E>>) -> Result<T, ApiError>
where
    ApiError: From<E>,
{
    let unavailable = || {
        let detail = "NATS does not answer: come back with the same Last-Event-ID";
        ApiError::new(Code::QueueUnavailable, detail)
    };
    if !app.queue.is_connected() {
        return Err(unavailable());
    }
    Ok(tokio::time::timeout(POSITION_WITHIN, answer).await.map_err(|_elapsed| unavailable())??)
}

/// The events from the stream.
type History = BoxStream<'static, Result<EventMessage, ReadError>>;

/// The filter of a client.
struct Client {
    project: ProjectName,
    /// Only events of this build, if one is given.
    build: Option<BuildId>,
    /// The sequence of the last event that was sent or skipped.
    last: u64,
}

impl Client {
    /// Returns whether the event must be sent.
    fn wants(&mut self, notice: &Notice) -> bool {
        if notice.sequence <= self.last {
            return false;
        }
        self.last = notice.sequence;
        notice.project == self.project && self.build.is_none_or(|build| build == notice.build)
    }
}

/// The rest of the stream for one client. The connection polls it as fast as the client reads, and
/// waits for the broadcast directly, so there is one wake-up between an event and each socket, and
/// gathered events are written at once. The connection of a client that reads nothing is closed
/// (see `patience`).
struct Serving {
    client: Client,
    opening: Option<Bytes>,
    /// The events before `until`.
    history: Option<History>,
    until: u64,
    live: Option<Subscription>,
    alive: Option<Interval>,
    app: Arc<App>,
}

impl Serving {
    /// Returns the next frame; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while let Some(history) = &mut self.history {
            let next = self.app.stop.run_until_cancelled(history.next());
            let next = next.await?;
            let arrived = match next {
                Some(Ok(message)) => Arrived::of(message),
                Some(Err(error)) => {
                    tracing::debug!(error = chain(&error), "a reader of events ended early");
                    return None;
                }
                None => break,
            };
            if arrived.sequence > self.until {
                break;
            }
            if let Some(notice) = arrived.notice()
                && self.client.wants(&notice)
            {
                return Some(notice.frame);
            }
        }
        if self.history.take().is_some() {
            self.client.last = self.client.last.max(self.until);
        }
        let live = self.live.as_mut()?;
        let alive = self.alive.get_or_insert_with(|| {
            tokio::time::interval_at(Instant::now() + sse::KEEP_ALIVE, sse::KEEP_ALIVE)
        });
        loop {
            let told = tokio::select! {
                // Ends with the broadcast when the dispatcher stops.
                biased;
                told = live.receiver.recv() => told,
                _ = alive.tick() => return Some(sse::ALIVE),
            };
            match told {
                Ok(Told::Event(notice)) if self.client.wants(&notice) => {
                    return Some(notice.frame.clone());
                }
                Ok(Told::Event(_)) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::info!(missed, "dropped a subscriber that reads too slowly");
                    Metrics::count(&self.app.metrics.subscribers_dropped);
                    return None;
                }
                Ok(Told::Anew) | Err(RecvError::Closed) => return None,
            }
        }
    }
}
