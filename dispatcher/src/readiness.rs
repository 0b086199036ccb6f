// SPDX-License-Identifier: Apache-2.0

//! Whether this dispatcher can serve: NATS is connected and stores what it is sent, and the
//! projection has caught up.
//!
//! The write is tried, not asked about: nats-server 2.9.10 stays healthy on a full disk.

use std::time::Duration;

use serde::Serialize;
use slipway_queue::Queue;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::feed::Feed;

/// How long the write may take. Longer than a slow disk's flush, shorter than a probe's patience.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);

/// How long an answer is good for, so that many probes cost one write.
const KEPT: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Whether all of it is well.
    pub(crate) ready: bool,
    /// Whether the connection to NATS stands.
    pub(crate) nats_connected: bool,
    /// Whether NATS stored a message within the deadline.
    pub(crate) nats_writable: bool,
    /// Whether the projection has been at the end of the events since the start.
    pub(crate) projection_caught_up: bool,
}

impl Report {
    /// Says what is wrong, for people.
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

/// Finds out, and remembers for a moment.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    /// Returns how things stand.
    pub(crate) async fn report(&self, queue: &Queue, feed: &Feed) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < KEPT
        {
            return *report;
        }
        let nats_connected = queue.is_connected();
        let probe = tokio::time::timeout(WRITE_DEADLINE, queue.probe_write());
        let nats_writable = nats_connected && matches!(probe.await, Ok(Ok(())));
        let projection_caught_up = feed.is_caught_up();
        let report = Report {
            ready: nats_connected && nats_writable && projection_caught_up,
            nats_connected,
            nats_writable,
            projection_caught_up,
        };
        *last = Some((Instant::now(), report));
        report
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
        };
        insta::assert_snapshot!(report.sentence());
    }
}
