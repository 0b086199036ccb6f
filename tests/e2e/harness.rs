// SPDX-License-Identifier: Apache-2.0

//! The harness really breaks its servers.

mod disks;
mod link;
mod nats;
mod registry;

use std::time::Duration;

/// How long nothing must happen to count as silence.
const SILENCE_PERIOD: Duration = Duration::from_millis(200);
