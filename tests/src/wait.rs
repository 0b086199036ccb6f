// SPDX-License-Identifier: Apache-2.0

//! Waiting for a condition.

use std::time::{Duration, Instant};

/// The deadline of a condition that takes milliseconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);
/// The deadline of a condition that includes the end of a lease or a restart.
pub const LATER: Duration = Duration::from_secs(90);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` yields something.
///
/// # Panics
///
/// When it does not in time. `what` names the condition.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < limit, "gave up waiting for {what} after {limit:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
