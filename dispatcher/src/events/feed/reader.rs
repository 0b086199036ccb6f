// SPDX-License-Identifier: Apache-2.0

//! Reading `EVENTS`, from behind the last event that was folded, through every break.

use slipway_fault::{Pauses, chain};
use slipway_queue::Queue;
use slipway_queue::read::ReadError;
use slipway_queue::topology::Limits;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Arrived;
use crate::backoff::until_nats_is_back;
use crate::events::projection::Work;

/// How many events are handed to the projection at once, at most.
const MAX_TOGETHER: usize = 128;

/// Reads the stream for ever, into `work`, until `stop`. After any error it goes on behind the last
/// event that the projection has.
pub(crate) async fn read(
    queue: Queue,
    work: mpsc::Sender<Work>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut backoff = until_nats_is_back();
    loop {
        let reading = Box::pin(read_on(&queue, &work, &limits, &mut backoff));
        let outcome = stop.run_until_cancelled(reading).await;
        match outcome {
            None | Some(Err(Interrupted::Closed)) => return,
            Some(Err(Interrupted::Reconnected)) => {
                tracing::debug!("connected again; opening the events anew");
            }
            Some(Err(Interrupted::Read(error))) => {
                tracing::warn!(error = chain(&error), "lost the reader of events; opening another");
            }
            Some(Ok(never)) => match never {},
        }
        if !backoff.wait_unless(stop.cancelled()).await {
            return;
        }
    }
}

enum Interrupted {
    /// The projection's thread is gone.
    Closed,
    Reconnected,
    Read(ReadError),
}

impl From<ReadError> for Interrupted {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

async fn read_on(
    queue: &Queue,
    work: &mpsc::Sender<Work>,
    limits: &Limits,
    backoff: &mut Pauses,
) -> Result<std::convert::Infallible, Interrupted> {
    // A server that restarted has forgotten its readers, which the client would notice only by
    // their silence, and may have come back with another stream.
    let mut connections = queue.connections();
    connections.mark_unchanged();
    let position = match queue.events_position().await {
        Ok(position) => position,
        Err(error) => {
            // The server may have come back without its streams.
            if let Err(error) = queue.ensure_topology(limits).await {
                tracing::debug!(error = chain(&error), "the streams could not be made anew");
            }
            return Err(error.into());
        }
    };
    let (reply, aligned) = oneshot::channel();
    let align =
        Work::Align { created: position.created, last_sequence: position.last_sequence, reply };
    work.send(align).await.map_err(|_| Interrupted::Closed)?;
    let after = aligned.await.map_err(|_| Interrupted::Closed)?;
    let mut reader = queue.read_events(&queue.subjects().events(), after).await?;
    if reader.pending() == 0 || after >= position.last_sequence {
        work.send(Work::AtEnd).await.map_err(|_| Interrupted::Closed)?;
    }
    tracing::debug!(after, pending = reader.pending(), "reading events");
    loop {
        tokio::select! {
            messages = reader.next_batch(MAX_TOGETHER) => {
                let arrived = messages?.into_iter().map(Arrived::of).collect();
                work.send(Work::Fold(arrived)).await.map_err(|_| Interrupted::Closed)?;
                backoff.reset();
            }
            _ = connections.changed() => return Err(Interrupted::Reconnected),
        }
    }
}
