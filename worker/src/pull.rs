// SPDX-License-Identifier: Apache-2.0

//! How many builds this worker takes: one for each free slot, until it is told to stop.
//!
//! The queue decides which builds those are and how they are asked for.

use std::sync::Arc;

use slipway_queue::delivery::Delivery;
use slipway_queue::pull::Puller;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Takes builds until cancelled, each with the slot that it occupies.
pub(crate) async fn run(
    mut puller: Puller,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    take: impl Fn(Delivery, OwnedSemaphorePermit),
) {
    while let Some(mut free) = free_slots(&mut puller, &slots, &stop).await {
        let room = free.num_permits();
        let Some(deliveries) = puller.next(room, stop.cancelled()).await else { break };
        for delivery in deliveries {
            let slot = free.split(1).expect("no more came than there was room for");
            take(delivery, slot);
        }
    }
    // Waiting requests are withdrawn with their inboxes. A message on its way to one is delivered
    // again when its lease ends.
}

/// Waits for a free slot, giving back messages that arrive meanwhile, and takes all free slots.
/// Returns `None` when cancelled.
async fn free_slots(
    puller: &mut Puller,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    let mut free = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            slot = Arc::clone(slots).acquire_owned() => {
                break slot.expect("the semaphore is never closed");
            }
            delivery = puller.surplus() => delivery.decline().await,
        }
    };
    while let Ok(another) = Arc::clone(slots).try_acquire_owned() {
        free.merge(another);
    }
    Some(free)
}
