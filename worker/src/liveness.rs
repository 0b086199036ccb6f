// SPDX-License-Identifier: Apache-2.0

//! Signs of life of a build: when it last made progress, and whether it is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by everything that works on one build. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    born: Instant,
    /// The last sign of life, in milliseconds since then.
    last: AtomicU64,
    stopped: AtomicBool,
}

impl Default for Liveness {
    fn default() -> Self {
        let inner = Inner {
            born: Instant::now(),
            last: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        };
        Self(Arc::new(inner))
    }
}

impl Liveness {
    /// Gives a sign of life.
    ///
    /// # Errors
    ///
    /// When the build is over, so that a thread that cannot be dropped ends too.
    pub fn touch(&self) -> io::Result<()> {
        let age = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.fetch_max(age, Relaxed);
        if self.0.stopped.load(Relaxed) {
            return Err(io::Error::other("the build is over"));
        }
        Ok(())
    }

    /// Marks the build as over.
    pub fn stop(&self) {
        self.0.stopped.store(true, Relaxed);
    }

    /// Returns the time since the last sign of life.
    #[must_use]
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.0.last.load(Relaxed));
        self.0.born.elapsed().saturating_sub(last)
    }

    /// Resolves when there was no sign of life for the given time.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let idle = self.idle();
            if idle >= limit {
                return;
            }
            tokio::time::sleep(limit - idle).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_build_stalls_when_it_gives_no_sign_of_life_for_the_whole_limit() {
        let liveness = Liveness::default();
        let limit = Duration::from_secs(10);
        let begun = Instant::now();
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(9)).await;
            liveness.touch().expect("it lives");
        }
        liveness.stalled(limit).await;
        assert_eq!(begun.elapsed().as_secs(), 28);
        liveness.stop();
        assert!(liveness.touch().is_err());
    }
}
