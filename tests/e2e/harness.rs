// SPDX-License-Identifier: Apache-2.0

//! The harness does to its servers what it says it does.

mod disks;
mod link;
mod nats;
mod registry;

use std::time::Duration;

/// How long nothing must happen to say that nothing does.
const NOTHING: Duration = Duration::from_millis(200);
