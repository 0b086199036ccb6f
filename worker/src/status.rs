// SPDX-License-Identifier: Apache-2.0

//! What an operator can see of a worker: whether it can take builds, and what it has done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use slipway_queue::Queue;
use slipway_queue::protocol::attempt::End;
use slipway_service::Page;
use slipway_service::admin::{Latch, Observed, Readiness};
use tokio_util::sync::CancellationToken;

use crate::running::Running;

/// How an attempt ended, as its counter names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The image was pushed.
    Succeeded,
    /// A stage failed; the build may be tried again.
    Failed,
    /// The worker stopped and gave the build back.
    GivenBack,
    /// The build was ended from outside, as by a cancellation.
    CalledOff,
    /// The lease was lost to another worker.
    Lost,
}

impl Ended {
    const ALL: [Self; 5] =
        [Self::Succeeded, Self::Failed, Self::GivenBack, Self::CalledOff, Self::Lost];

    fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::GivenBack => "given_back",
            Self::CalledOff => "called_off",
            Self::Lost => "lost",
        }
    }
}

/// The state of a worker.
#[derive(Debug)]
pub(crate) struct Status {
    readiness: Readiness,
    queue: OnceLock<Queue>,
    draining: OnceLock<CancellationToken>,
    slots: u32,
    running: Running,
    pulled: AtomicU64,
    ended: [AtomicU64; Ended::ALL.len()],
    cache_bytes: AtomicU64,
}

impl Status {
    /// Makes the status of a worker that starts, and the latch that says that it has started.
    pub(crate) fn new(slots: u32, running: Running) -> (Arc<Self>, Latch) {
        let (readiness, latch) = Readiness::new();
        let status = Self {
            readiness,
            queue: OnceLock::new(),
            draining: OnceLock::new(),
            slots,
            running,
            pulled: AtomicU64::new(0),
            ended: Default::default(),
            cache_bytes: AtomicU64::new(0),
        };
        (Arc::new(status), latch)
    }

    /// Names the connection that the worker needs.
    pub(crate) fn connected(&self, queue: Queue) {
        let _only_once = self.queue.set(queue);
    }

    /// Names the token that is cancelled when the worker drains.
    pub(crate) fn drains_with(&self, stop: CancellationToken) {
        let _only_once = self.draining.set(stop);
    }

    /// Counts a build request that was pulled.
    pub(crate) fn count_pulled(&self) {
        self.pulled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of an attempt.
    pub(crate) fn count_ended(&self, end: &End) {
        let how = match end {
            End::Succeeded(_) => Ended::Succeeded,
            End::Failed(_) => Ended::Failed,
            End::HandedBack => Ended::GivenBack,
            End::CalledOff(_) => Ended::CalledOff,
            End::Lost => Ended::Lost,
        };
        self.ended[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how large the cache is.
    pub(crate) fn note_cache_bytes(&self, bytes: u64) {
        self.cache_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Observed for Status {
    fn obstacles(&self) -> Vec<&'static str> {
        let mut obstacles = Vec::new();
        if !self.readiness.is_ready() {
            obstacles.push("the worker is starting");
        }
        if self.queue.get().is_some_and(|queue| !queue.is_connected()) {
            obstacles.push("the connection to NATS is lost: check that nats-server runs");
        }
        if self.draining.get().is_some_and(CancellationToken::is_cancelled) {
            obstacles.push("the worker drains and takes no more builds");
        }
        obstacles
    }

    fn metrics(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family("slipway_worker_slots", "gauge", "Builds that run at once at most.");
        page.plain(u64::from(self.slots));
        page.family("slipway_worker_running", "gauge", "Builds that run.");
        page.plain(self.running.list().len() as u64);
        page.family("slipway_worker_pulled_total", "counter", "Build requests pulled.");
        page.plain(value(&self.pulled));
        page.family("slipway_worker_attempts_total", "counter", "Ended attempts by outcome.");
        for how in Ended::ALL {
            page.sample("outcome", how.label(), value(&self.ended[how as usize]));
        }
        page.family("slipway_worker_cache_bytes", "gauge", "Bytes in the blob cache.");
        page.plain(value(&self.cache_bytes));
        if let Some(queue) = self.queue.get() {
            page.family("slipway_nats_connected", "gauge", "Whether NATS is connected.");
            page.plain(u64::from(queue.is_connected()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_from_its_start_until_it_drains() {
        let (status, latch) = Status::new(2, Running::default());
        assert_eq!(status.obstacles(), ["the worker is starting"]);
        let stop = CancellationToken::new();
        status.drains_with(stop.clone());
        drop(latch);
        assert!(status.obstacles().is_empty());
        stop.cancel();
        assert_eq!(status.obstacles(), ["the worker drains and takes no more builds"]);
    }

    #[test]
    fn each_end_has_its_own_counter() {
        let (status, _latch) = Status::new(2, Running::default());
        status.count_pulled();
        status.count_ended(&End::HandedBack);
        status.count_ended(&End::Lost);
        status.count_ended(&End::Lost);
        let mut page = Page::default();
        status.metrics(&mut page);
        insta::assert_snapshot!(page.text());
    }
}
