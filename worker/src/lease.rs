// SPDX-License-Identifier: Apache-2.0

//! Keeps a build's lease while an attempt runs, and ends the attempt when the lease cannot be kept.
//!
//! The server confirms every extension. A worker that has had no confirmation for 11 s stops by
//! itself: 15 s after the last one JetStream gives the build to another worker, and the work of this
//! one must be over by then.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use slipway_queue::delivery::Delivery;
use slipway_queue::is_off;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the lease is extended; a third of the ack wait.
pub(crate) const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// How long one extension may take before it is tried again.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a worker trusts its last confirmation. Less than the ack wait by more than the longest
/// step that is not interrupted.
const TRUSTED_FOR: Duration = Duration::from_secs(11);

/// The lease of one attempt.
#[derive(Debug)]
pub(crate) struct Lease {
    confirmed: Arc<Mutex<Instant>>,
    lost: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Lease {
    /// Starts to keep the lease of a build that was delivered just now.
    #[must_use]
    pub(crate) fn keep(delivery: Arc<Delivery>) -> Self {
        let confirmed = Arc::new(Mutex::new(Instant::now()));
        let lost = CancellationToken::new();
        let keeper = tokio::spawn(extend(delivery, Arc::clone(&confirmed), lost.clone()));
        Self { confirmed, lost, keeper }
    }

    /// Resolves when the lease is lost.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns whether the lease can still be trusted at this moment. Checked before every step
    /// that others can see: a process that was asleep finds out here.
    #[must_use]
    pub(crate) fn holds(&self) -> bool {
        if is_off("self-fencing") {
            return true;
        }
        !self.lost.is_cancelled() && age(&self.confirmed) < TRUSTED_FOR
    }
}

/// Polls a future, but only while a condition holds, and drops it otherwise. A future that waits
/// for an answer, and would then send another request, is stopped here if it slept.
pub(crate) async fn only_while<T>(
    may_go_on: impl Fn() -> bool,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| match may_go_on() {
        true => work.as_mut().poll(context).map(Some),
        false => Poll::Ready(None),
    })
    .await
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn extend(delivery: Arc<Delivery>, confirmed: Arc<Mutex<Instant>>, lost: CancellationToken) {
    let mut pause = EXTEND_EVERY;
    loop {
        let deadline = {
            let last = *confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            last + TRUSTED_FOR
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        if age(&confirmed) >= TRUSTED_FOR {
            if !is_off("self-fencing") {
                lost.cancel();
                return;
            }
            *confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        let asked = Instant::now();
        match tokio::time::timeout(EXTEND_TIMEOUT, delivery.extend()).await {
            Ok(Ok(())) => {
                // From the time of the request, because the server may have counted from then.
                *confirmed.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                pause = EXTEND_EVERY;
            }
            Ok(Err(_)) | Err(_) => pause = Duration::from_millis(500),
        }
    }
}

fn age(confirmed: &Mutex<Instant>) -> Duration {
    confirmed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn no_step_is_taken_once_the_lease_is_over() {
        let (held, steps) = (AtomicBool::new(true), AtomicU32::new(0));
        let work = |last: u32| {
            let (held, steps) = (&held, &steps);
            async move {
                for step in 0..4 {
                    steps.fetch_add(1, Relaxed);
                    held.store(step != last, Relaxed);
                    tokio::task::yield_now().await;
                }
            }
        };
        assert_eq!(only_while(|| held.load(Relaxed), work(9)).await, Some(()));
        assert_eq!(steps.swap(0, Relaxed), 4);
        assert_eq!(only_while(|| held.load(Relaxed), work(1)).await, None);
        assert_eq!(steps.load(Relaxed), 2);
    }
}
