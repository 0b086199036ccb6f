// SPDX-License-Identifier: Apache-2.0

//! Pauses between attempts at something that will come back, such as a restarted NATS server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The first pause. A server that restarts is back within a second, so the first attempts are
/// close together.
const FIRST: Duration = Duration::from_millis(50);

/// The longest pause: how long after the server's return a reader may still stand still.
const LONGEST: Duration = Duration::from_secs(2);

/// Doubles its pause with every failure.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits; returns `false` when `stop` came first.
    pub(crate) async fn pause(&mut self, stop: &CancellationToken) -> bool {
        let pause = (FIRST * 2u32.pow(self.failures.min(6))).min(LONGEST);
        self.failures += 1;
        stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }
}
