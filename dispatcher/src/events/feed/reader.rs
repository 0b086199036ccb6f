// SPDX-License-Identifier: Apache-2.0

//! Reads `EVENTS` from the event after the last folded one, across every break.

use slipway_fault::chain;
use slipway_queue::Queue;
use slipway_queue::read::ReadError;
use slipway_queue::reconnect::{Progress, Reading, keep_reading};
use slipway_queue::topology::Limits;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Arrived;
use crate::events::projection::Work;

/// The largest number of events that go to the projection at once.
const MAX_READ_EVENTS: usize = 128;

/// Reads the stream for ever, into `work`, until `stop`. After any break it goes on behind the last
/// event that the projection has.
pub(crate) async fn read(
    queue: Queue,
    work: mpsc::Sender<Work>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut reading = EventsReading { queue, work, limits };
    stop.run_until_cancelled(Box::pin(keep_reading(&mut reading))).await;
}

/// The projection's thread is gone.
struct Closed;

struct EventsReading {
    queue: Queue,
    work: mpsc::Sender<Work>,
    limits: Limits,
}

impl Reading for EventsReading {
    type Outcome = Closed;

    async fn read(&mut self, progress: &Progress) -> Result<Closed, ReadError> {
        read_on(&self.queue, &self.work, &self.limits, progress).await
    }

    fn broke(&self, error: &ReadError) {
        tracing::warn!(error = chain(error), "lost the reader of events; opening another");
    }
}

/// Reads on behind the last event that the projection has, until the reader breaks off.
async fn read_on(
    queue: &Queue,
    work: &mpsc::Sender<Work>,
    limits: &Limits,
    progress: &Progress,
) -> Result<Closed, ReadError> {
    // A server that restarted may have come back with another stream.
    let reconnections = queue.reconnections();
    let position = match queue.events_position().await {
        Ok(position) => position,
        Err(error) => {
            // The server may have come back without its streams.
            if let Err(error) = queue.ensure_topology(limits).await {
                tracing::debug!(error = chain(&error), "the streams could not be made again");
            }
            return Err(error.into());
        }
    };
    let (reply, aligned) = oneshot::channel();
    let align =
        Work::Align { created: position.created, last_sequence: position.last_sequence, reply };
    if work.send(align).await.is_err() {
        return Ok(Closed);
    }
    let Ok(after) = aligned.await else { return Ok(Closed) };
    let mut reader = queue.read_events(None, after).await?.since(reconnections);
    let is_at_end = reader.pending() == 0 || after >= position.last_sequence;
    if is_at_end && work.send(Work::AtEnd).await.is_err() {
        return Ok(Closed);
    }
    tracing::debug!(after, pending = reader.pending(), "reading events");
    loop {
        let messages = reader.next_batch(MAX_READ_EVENTS).await?;
        let arrived = messages.into_iter().map(Arrived::of).collect();
        if work.send(Work::Fold(arrived)).await.is_err() {
            return Ok(Closed);
        }
        progress.made();
    }
}
