// SPDX-License-Identifier: Apache-2.0

//! The thread that folds: takes what has arrived, in batches, and tells subscribers afterwards, so
//! that what an event says is in the lists when the event is seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Folder, Stored};
use crate::backoff::Backoff;
use crate::feed::{Arrived, Feed};
use crate::metrics::Metrics;
use crate::problem::chain;

/// How many events one transaction takes at most. Larger batches save nothing more, and hold the
/// write lock and the subscribers longer.
const MAX_BATCH: usize = 500;

/// What the thread is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Work {
    /// Fold a message of the stream.
    Fold(Arrived),
    /// Make sure that the file belongs to this stream, and answer where to read on.
    Align {
        /// When the stream was made.
        created: i128,
        /// The sequence of its last message.
        last_sequence: u64,
        /// Gets the sequence of the last event folded.
        reply: oneshot::Sender<u64>,
    },
}

/// Starts the thread; it ends when `work` is closed or `stop` comes.
pub(crate) fn spawn(
    folder: Folder,
    work: mpsc::Receiver<Work>,
    feed: Arc<Feed>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = Handle::current();
    let mut writer = Writer { folder, feed, metrics, stop, runtime };
    std::thread::Builder::new().name("projection".to_owned()).spawn(move || writer.run(work))
}

struct Writer {
    folder: Folder,
    feed: Arc<Feed>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    runtime: Handle,
}

impl Writer {
    fn run(&mut self, mut work: mpsc::Receiver<Work>) {
        let mut next = work.blocking_recv();
        while let Some(first) = next.take() {
            let mut batch = Vec::new();
            let mut align = None;
            let mut item = Some(first);
            while let Some(current) = item.take() {
                match current {
                    Work::Fold(arrived) => batch.push(arrived),
                    Work::Align { created, last_sequence, reply } => {
                        align = Some((created, last_sequence, reply));
                        break;
                    }
                }
                if batch.len() < MAX_BATCH {
                    item = work.try_recv().ok();
                }
            }
            if !self.fold(&batch) {
                return;
            }
            if let Some((created, last_sequence, reply)) = align
                && !self.align(created, last_sequence, reply)
            {
                return;
            }
            next = work.blocking_recv();
        }
    }

    /// Folds a batch until that succeeds; returns `false` when it is time to stop.
    fn fold(&mut self, batch: &[Arrived]) -> bool {
        let stored: Vec<Stored> = batch.iter().map(Arrived::stored).collect();
        let mut told = false;
        let folded = self.until_it_works(|writer| {
            let outcome = if stored.is_empty() { Ok(0) } else { writer.folder.fold(&stored) };
            if !std::mem::replace(&mut told, true) {
                // Also when it failed: a full disk here must not keep events from subscribers.
                batch.iter().for_each(|arrived| writer.feed.tell(arrived));
            }
            outcome
        });
        let Some(folded) = folded else { return false };
        self.metrics.events_folded.fetch_add(folded as u64, Ordering::Relaxed);
        self.metrics.projection_sequence.store(self.folder.last_sequence(), Ordering::Relaxed);
        self.feed.set_folded(self.folder.last_sequence());
        if let Some(last) = batch.last() {
            self.feed.set_progress(last);
        }
        true
    }

    fn align(&mut self, created: i128, last: u64, reply: oneshot::Sender<u64>) -> bool {
        let before = self.folder.last_sequence();
        if self.until_it_works(|writer| writer.folder.align(created, last)).is_none() {
            return false;
        }
        let now = self.folder.last_sequence();
        self.feed.aligned(now, last, now < before);
        self.metrics.projection_sequence.store(now, Ordering::Relaxed);
        self.feed.set_folded(now);
        // Nobody waits for it any more if the reader was stopped.
        let _unheard = reply.send(now);
        true
    }

    fn until_it_works<T>(
        &mut self,
        mut step: impl FnMut(&mut Self) -> Result<T, super::ProjectionError>,
    ) -> Option<T> {
        let mut backoff = Backoff::default();
        loop {
            match step(self) {
                Ok(value) => return Some(value),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the projection stands still");
                }
            }
            let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
            if !runtime.block_on(backoff.pause(&stop)) {
                return None;
            }
        }
    }
}
