// SPDX-License-Identifier: Apache-2.0

//! The pauses between attempts at something that will come back, such as a restarted NATS server.

use slipway_fault::{Backoff, Pauses};

/// A server that restarts is back within a second, so the first attempts are close together. The
/// longest pause is how long after the server's return a reader may still be idle.
const UNTIL_NATS_IS_BACK: Backoff = Backoff::constant(50, 2, 2_000, 20);

/// Returns the pauses of a task that starts over until NATS is back.
pub(crate) const fn until_nats_is_back() -> Pauses {
    UNTIL_NATS_IS_BACK.pauses()
}
