// SPDX-License-Identifier: Apache-2.0

//! What an acknowledged message survives.

use std::fmt;

use serde::Serialize;

use crate::Queue;
use crate::query::QueryError;

/// What accepted builds survive. It follows from the server's version, the replicas of the queue
/// and whether the servers flush each message before they acknowledge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Processes may be killed at any time. A power failure can lose builds, or the whole stream.
    ProcessCrash,
    /// One node of the cluster may lose power. If all do at once, builds can be lost.
    SinglePowerLoss,
    /// Every node may lose power at once.
    PowerLossSafe,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcessCrash => "process-crash",
            Self::SinglePowerLoss => "single-power-loss",
            Self::PowerLossSafe => "power-loss-safe",
        })
    }
}

impl Durability {
    /// Determines the class.
    ///
    /// `sync_always` is the operator's statement that every server has `sync_interval: always`,
    /// because a client cannot read that setting. Servers before 2.10 silently ignore it, so for
    /// them it does not count. Nor do their replicas: after a cluster of 2.9.10 was killed and
    /// started, its replicas numbered the same messages differently.
    #[must_use]
    pub fn of(version: &str, replicas: usize, sync_always: bool) -> Self {
        match (at_least(version, (2, 10)), sync_always, replicas) {
            (true, true, _) => Self::PowerLossSafe,
            (true, false, 3..) => Self::SinglePowerLoss,
            _ => Self::ProcessCrash,
        }
    }
}

/// Returns whether a version is at least `major.minor`.
#[must_use]
pub fn at_least(version: &str, wanted: (u32, u32)) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
}

impl Queue {
    /// Finds out what accepted builds survive.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn durability(&self, sync_always: bool) -> Result<Durability, QueryError> {
        let version = self.server_version();
        let replicas = self.queue_replicas().await?;
        Ok(Durability::of(&version, replicas, sync_always))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_follows_from_version_replicas_and_flushing() {
        use Durability::{PowerLossSafe, ProcessCrash, SinglePowerLoss};
        for (version, replicas, always, class) in [
            ("2.9.10", 1, false, ProcessCrash),
            ("2.9.10", 1, true, ProcessCrash),
            ("2.9.10", 3, true, ProcessCrash),
            ("2.15.1", 1, false, ProcessCrash),
            ("2.15.1", 1, true, PowerLossSafe),
            ("2.15.1", 3, false, SinglePowerLoss),
            ("2.15.1-beta.1", 3, true, PowerLossSafe),
            ("3.0.0", 1, true, PowerLossSafe),
        ] {
            assert_eq!(Durability::of(version, replicas, always), class, "{version} {replicas}");
        }
    }
}
