// SPDX-License-Identifier: Apache-2.0

//! Publishing what has happened already. The record says it, so whoever asked for it is answered
//! even if the event cannot be stored at once; and what a crash prevents, the reconciler does.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::Build;
use slipway_proto::event::Event;
use slipway_queue::Queue;
use slipway_queue::publish::Sent;
use slipway_queue::reconnect::UNTIL_NATS_IS_BACK;
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How long an event is tried again before it is left to the reconciler.
const ANNOUNCE_FOR: Duration = Duration::from_secs(120);

/// Publishes an event and returns its sequence; `None` if that could not be done at once and goes
/// on in the background.
pub(crate) async fn announce(app: &App, event: Event) -> Option<u64> {
    let error = match app.queue.publish_event_at(&event).await {
        Ok(sequence) => return Some(sequence),
        Err(error) => error,
    };
    tracing::warn!(id = event.id, error = chain(&error), "publishing an event later");
    let (queue, stop) = (app.queue.clone(), app.stop.clone());
    app.tasks.spawn(async move { again(&queue, &event, &stop).await });
    None
}

/// Sees in the background that an event which was sent is stored, and says then where.
pub(crate) fn announce_later(
    app: &Arc<App>,
    mut sent: Sent,
    stored: impl FnOnce(u64) + Send + 'static,
) {
    let background = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = background;
        match sent.stored(&app.queue).await {
            Ok(sequence) => stored(sequence),
            Err(error) => {
                let event = sent.event();
                tracing::warn!(id = event.id, error = chain(&error), "publishing an event later");
                if let Some(sequence) = again(&app.queue, event, &app.stop).await {
                    stored(sequence);
                }
            }
        }
    });
}

/// Publishes an event that could not be published at once, and returns its sequence; `None` when
/// it is left to the reconciler.
async fn again(queue: &Queue, event: &Event, stop: &CancellationToken) -> Option<u64> {
    let mut backoff = UNTIL_NATS_IS_BACK.pauses();
    let announced = async {
        loop {
            if let Ok(sequence) = queue.publish_event_at(event).await {
                return Some(sequence);
            }
            if !backoff.wait_unless(stop.cancelled()).await {
                return None;
            }
        }
    };
    let announced = tokio::time::timeout(ANNOUNCE_FOR, announced).await;
    announced.unwrap_or_else(|_elapsed| {
        tracing::warn!(id = event.id, "gave up publishing an event; the reconciler will");
        None
    })
}

/// Publishes the outcome that a record holds, and before it what the projection has not heard: that
/// the build was queued, which a crash may have kept from being said, and that its last attempt
/// started, which the worker may be about to say. Who says it first does not matter: it is the same
/// event, and subscribers see it before the outcome.
pub(crate) async fn announce_outcome(app: &App, build: &Build) {
    let Some(event) = Event::finished(build) else { return };
    let folded = app.builds.folded(&build.request.project, build.request.build).await;
    if let Ok(folded) = folded {
        if folded.is_none() {
            announce(app, Event::queued(build)).await;
        }
        let told = folded.map_or(0, |folded| folded.state.epoch);
        if let Some(started) = Event::started(build).filter(|_| told < build.state.epoch) {
            announce(app, started).await;
        }
    }
    announce(app, event).await;
}
