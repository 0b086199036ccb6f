// SPDX-License-Identifier: Apache-2.0

//! Whether this dispatcher can serve: NATS is connected and stores messages, and the projection has
//! caught up. And what accepted builds survive.
//!
//! A write is tried, because nats-server 2.9.10 reports itself healthy on a full disk. It is tried
//! every second and not only on request, so that builds are refused at once by the last result
//! instead of each waiting for a deadline.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use slipway_fault::chain;
use slipway_queue::durability::{Durability, at_least};
use slipway_queue::{QueryError, Queue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::feed::Feed;

/// How long the write may take. Longer than a slow disk's flush, shorter than the time limit of a
/// probe.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);

/// How often the write is tried.
const EVERY: Duration = Duration::from_secs(1);

/// How long a result is valid: until the next try must have ended.
const RESULT_VALID_FOR: Duration = Duration::from_secs(4);

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Whether everything is well.
    pub(crate) ready: bool,
    /// Whether NATS is connected.
    pub(crate) nats_connected: bool,
    /// Whether NATS stored a message within the deadline.
    pub(crate) nats_writable: bool,
    /// Whether the projection has been at the end of the events since the start.
    pub(crate) projection_caught_up: bool,
    /// What accepted builds survive, if it is known.
    pub(crate) durability: Option<Durability>,
}

impl Report {
    /// Describes what is wrong, for people.
    pub(crate) fn sentence(&self) -> String {
        let mut wrong = Vec::new();
        if !self.nats_connected {
            wrong.push("the connection to NATS is lost: check that nats-server runs");
        } else if !self.nats_writable {
            wrong.push(
                "NATS does not store messages: check its disk, memory limits and permissions",
            );
        }
        if !self.projection_caught_up {
            wrong.push("the projection has not caught up with the events yet: wait");
        }
        wrong.join("; ")
    }
}

/// The result of the last try.
#[derive(Debug, Clone, Copy)]
struct Probe {
    at: Instant,
    connected: bool,
    writable: bool,
}

/// Tries, and remembers the result.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<Probe>>,
    durability: Mutex<Option<Durability>>,
    // Held while the write is tried, so that many requests share one try.
    probing: tokio::sync::Mutex<()>,
}

impl Readiness {
    /// Tries the write again and again, until `stop`, and at once when a lost connection is back.
    pub(crate) async fn watch(&self, queue: &Queue, sync_always: bool, stop: CancellationToken) {
        let mut reconnections = queue.reconnections();
        loop {
            self.probe(queue).await;
            let reconnected = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => false,
                () = reconnections.next() => true,
            };
            // The server may have come back as another version.
            if reconnected && let Err(error) = self.learn_durability(queue, sync_always).await {
                tracing::debug!(error = chain(&error), "the durability is not known");
            }
        }
    }

    /// Finds out what accepted builds survive, and logs it if it has changed.
    pub(crate) async fn learn_durability(
        &self,
        queue: &Queue,
        sync_always: bool,
    ) -> Result<(), QueryError> {
        let durability = queue.durability(sync_always).await?;
        let before =
            self.durability.lock().unwrap_or_else(PoisonError::into_inner).replace(durability);
        if before == Some(durability) {
            return Ok(());
        }
        let version = queue.server_version();
        tracing::info!(%durability, nats = version, "{}", advice(durability));
        if sync_always && !at_least(&version, (2, 10)) {
            tracing::warn!(
                nats = version,
                "nats_sync_always has no effect: servers before 2.10 do not have `sync_interval: \
                always` and silently ignore it"
            );
        }
        Ok(())
    }

    /// Returns the current readiness.
    pub(crate) async fn report(&self, queue: &Queue, feed: &Feed) -> Report {
        let probe = match self.recent() {
            Some(probe) => probe,
            None => self.probe(queue).await,
        };
        let nats_connected = probe.connected && queue.is_connected();
        let nats_writable = nats_connected && probe.writable;
        let projection_caught_up = feed.is_caught_up();
        Report {
            ready: nats_writable && projection_caught_up,
            nats_connected,
            nats_writable,
            projection_caught_up,
            durability: *self.durability.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns whether NATS, although connected, did not store the last message.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.recent().is_some_and(|probe| probe.connected && !probe.writable)
    }

    fn recent(&self) -> Option<Probe> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|probe| probe.at.elapsed() < RESULT_VALID_FOR)
    }

    async fn probe(&self, queue: &Queue) -> Probe {
        let asked = Instant::now();
        let _alone = self.probing.lock().await;
        if let Some(probe) = self.recent().filter(|probe| probe.at > asked) {
            return probe;
        }
        let connected = queue.is_connected();
        let written = async { connected && queue.probe_write().await.is_ok() };
        let writable = tokio::time::timeout(WRITE_DEADLINE, written).await.unwrap_or(false);
        // A connection that broke meanwhile says nothing about the disk.
        let connected = connected && queue.is_connected();
        let probe = Probe { at: Instant::now(), connected, writable };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(probe);
        probe
    }
}

/// Describes a class and how to get a better one.
fn advice(durability: Durability) -> &'static str {
    match durability {
        Durability::ProcessCrash => {
            "accepted builds survive any killed process, but not a power failure: for that run \
            nats-server 2.10 or newer (2.15 for speed) with `sync_interval: always` and say so with --nats-sync-always, or three of them with --replicas 3"
        }
        Durability::SinglePowerLoss => {
            "accepted builds survive a power failure of one NATS node, but not of all at once: \
            for that run nats-server 2.10 or newer (2.15 for speed) with `sync_interval: always` and say so with --nats-sync-always"
        }
        Durability::PowerLossSafe => "accepted builds survive a power failure of all NATS nodes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_what_is_wrong() {
        let report = Report {
            ready: false,
            nats_connected: true,
            nats_writable: false,
            projection_caught_up: false,
            durability: None,
        };
        insta::assert_snapshot!(report.sentence());
    }

    #[test]
    fn a_class_that_can_be_better_comes_with_how() {
        for class in [Durability::ProcessCrash, Durability::SinglePowerLoss] {
            assert!(advice(class).contains("--nats-sync-always"), "{class}");
        }
    }

    #[test]
    fn only_a_connected_server_that_does_not_store_is_refused_for() {
        let readiness = Readiness::default();
        assert!(!readiness.is_unwritable(), "nothing is known yet");
        for (connected, writable, unwritable) in
            [(true, false, true), (true, true, false), (false, false, false)]
        {
            let probe = Probe { at: Instant::now(), connected, writable };
            *readiness.last.lock().expect("no panic") = Some(probe);
            assert_eq!(readiness.is_unwritable(), unwritable);
        }
    }
}
