// SPDX-License-Identifier: Apache-2.0

//! What the events say of builds, and publishing an event that could not be stored at once.
//!
//! The record says what has happened, so a client is answered even if the event cannot be stored;
//! and what a crash prevents, the reconciler does.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::event::Event;
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::protocol::reconcile;
use slipway_queue::protocol::{self, ProjectedState, Unreadable};
use slipway_queue::publish::Sent;
use slipway_queue::reconnect::UNTIL_NATS_IS_BACK;
use slipway_queue::{QueryError, Queue};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::feed::Feed;
use crate::events::projection::{Projection, ProjectionError};

/// How long publishing is retried before the event is left to the reconciler.
const ANNOUNCE_FOR: Duration = Duration::from_secs(120);

/// How long the projection may take to catch up with the events that were there at the start of a
/// sweep.
const SWEEP_FOLDED_WITHIN: Duration = Duration::from_secs(2);

/// What this dispatcher has folded of the events, and its way to publish one later. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    pub(super) queue: Queue,
    pub(super) projection: Projection,
    pub(super) feed: Arc<Feed>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Why the events could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    /// The stream could not be asked for its end.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The projection could not be read.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
}

impl Announcer {
    pub(crate) fn new(
        queue: Queue,
        projection: Projection,
        feed: Arc<Feed>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { queue, projection, feed, tasks, stop }
    }

    /// Sees in the background that an event which was sent is stored, and passes its sequence on.
    pub(crate) fn announce_later(&self, mut sent: Sent, stored: impl FnOnce(u64) + Send + 'static) {
        let announcer = self.clone();
        self.tasks.spawn(async move {
            match sent.stored(&announcer.queue).await {
                Ok(sequence) => stored(sequence),
                Err(error) => {
                    let event = sent.event();
                    let error = chain(&error);
                    tracing::warn!(id = event.id, error, "publishing an event later");
                    if let Some(sequence) = announcer.publish_until_stored(event).await {
                        stored(sequence);
                    }
                }
            }
        });
    }

    /// Publishes an event that could not be stored at once, and returns its sequence; `None` when
    /// it is left to the reconciler.
    async fn publish_until_stored(&self, event: &Event) -> Option<u64> {
        let mut backoff = UNTIL_NATS_IS_BACK.pauses();
        let announced = async {
            loop {
                if let Ok(sequence) = self.queue.publish_event_at(event).await {
                    return Some(sequence);
                }
                if !backoff.wait_unless(self.stop.cancelled()).await {
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
}

impl protocol::Feed for Announcer {
    async fn state(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<ProjectedState>, Unreadable> {
        let folded = self.projection.get(project, build).await.map_err(|error| {
            tracing::debug!(%build, error = chain(&error), "the projection is not readable");
            Unreadable
        })?;
        Ok(folded.map(|build| ProjectedState::of(&build)))
    }

    fn publish_later(&self, event: Event) {
        let announcer = self.clone();
        self.tasks.spawn(async move { announcer.publish_until_stored(&event).await });
    }
}

impl reconcile::Projection for Announcer {
    type Error = EventsError;

    async fn states(
        &self,
        builds: Vec<(ProjectName, BuildId)>,
    ) -> Result<Option<Vec<Option<ProjectedState>>>, EventsError> {
        let last = self.queue.events_position().await?.last_sequence;
        if tokio::time::timeout(SWEEP_FOLDED_WITHIN, self.feed.folded(last)).await.is_err() {
            tracing::debug!(last, "the projection is behind; events are looked for later");
            return Ok(None);
        }
        Ok(Some(self.projection.states(builds).await?))
    }
}
