// SPDX-License-Identifier: Apache-2.0

//! Where the parts that run inside this process write their own logs: to stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging at a level for Slipway's own crates; `SLIPWAY_LOG` says otherwise.
pub(crate) fn start(level: &str) {
    let filter = EnvFilter::try_from_env("SLIPWAY_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,slipway={level},slipway_dispatcher={level},slipway_worker={level},\
             slipway_queue={level},slipway_artifact={level}"
        ))
    });
    // It fails if this process has started logging already, which serves as well.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
