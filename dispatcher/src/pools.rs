// SPDX-License-Identifier: Apache-2.0

//! Which pools exist. A build for a pool that no worker has ever served would wait for ever, so it
//! is refused when it is submitted.

use std::collections::BTreeSet;
use std::time::Duration;

use slipway_proto::PoolName;
use slipway_queue::{QueryError, Queue};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a pool that was seen counts as existing. Its consumers are durable and stay when the
/// last worker leaves.
const POOL_KNOWN_FOR: Duration = Duration::from_secs(60);

/// How often the server is asked again for an unknown pool. A new worker's pool is known this soon.
const ASKED_AGAIN: Duration = Duration::from_millis(500);

/// How long the server may take to answer.
const CONSUMERS_WITHIN: Duration = Duration::from_secs(3);

/// Remembers pools for a short time.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    // Held while the server is asked, so that a burst of requests asks once.
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    pools: BTreeSet<PoolName>,
}

impl Pools {
    /// Returns whether a pool has consumers; `None` if the server does not answer.
    pub(crate) async fn exists(&self, queue: &Queue, pool: &PoolName) -> Option<bool> {
        if *pool == PoolName::default() {
            // Made with the streams.
            return Some(true);
        }
        let mut seen = self.seen.lock().await;
        if let Some(seen) = &*seen {
            let known = seen.pools.contains(pool);
            if seen.at.elapsed() < if known { POOL_KNOWN_FOR } else { ASKED_AGAIN } {
                return Some(known);
            }
        }
        if !queue.is_connected() {
            return None;
        }
        match ask(queue).await {
            Ok(pools) => {
                let known = pools.contains(pool);
                *seen = Some(Seen { at: Instant::now(), pools });
                Some(known)
            }
            Err(error) => {
                tracing::warn!(error = slipway_fault::chain(&error), "failed to list the pools");
                None
            }
        }
    }
}

async fn ask(queue: &Queue) -> Result<BTreeSet<PoolName>, QueryError> {
    let depth = tokio::time::timeout(CONSUMERS_WITHIN, queue.depth()).await;
    let depth = depth.map_err(|elapsed| QueryError::new("the list of pools", elapsed))??;
    Ok(depth.classes.into_iter().map(|class| class.pool).collect())
}
