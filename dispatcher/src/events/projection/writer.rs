// SPDX-License-Identifier: Apache-2.0

//! The thread that folds: takes arrived events in batches, and sends them to subscribers
//! afterwards, so the lists already show what an event says when it is seen.

use slipway_fault::chain;
use slipway_queue::reconnect::UNTIL_NATS_IS_BACK;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Folder, Stored};
use crate::events::feed::{Arrived, Feed, Pace};
use crate::metrics::Metrics;

/// The largest number of events in one transaction. Larger batches save little more, and hold the
/// write lock and delay subscribers longer.
const MAX_FOLD_EVENTS: usize = 8192;

/// The largest number of bytes in one transaction.
const MAX_FOLD_BYTES: usize = 16 * 1024 * 1024;

/// The longest time a transaction waits for more events that follow without a pause.
const MAX_BATCH_TIME: Duration = Duration::from_millis(50);

/// The shortest time between the starts of two transactions. A lone event is folded and sent at
/// once. Among thousands a second, each waits a little for others, and they share the cost of the
/// transaction, which is several times their own.
const INTERVAL: Duration = Duration::from_millis(2);

/// The rest after a batch, as a multiple of the time it took. The events of a build are some
/// milliseconds apart, and each batch writes its row again.
const FOLD_REST: u32 = 4;

/// The longest time between the starts of two transactions while events wait. Among thousands a
/// second, subscribers see an event this much later.
const MAX_INTERVAL: Duration = Duration::from_millis(20);

/// From this distance to the end of the stream the thread takes no rest, as during a rebuild.
const BEHIND: u64 = 5_000;

/// The work of the thread, in order.
#[derive(Debug)]
pub(crate) enum Work {
    /// Fold messages of the stream.
    Fold(Vec<Arrived>),
    /// Take note that the stream has no more events now.
    AtEnd,
    /// Make sure that the file belongs to this stream, and answer where to continue reading.
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
    let (pace, folded_at, interval) = (Pace::new(Arc::clone(&feed)), Instant::now(), INTERVAL);
    let mut writer = Writer { folder, feed, pace, metrics, stop, runtime, folded_at, interval };
    std::thread::Builder::new().name("projection".to_owned()).spawn(move || writer.run(work))
}

/// The events of one transaction.
#[derive(Default)]
struct Batch {
    arrived: Vec<Arrived>,
    stored: Vec<Stored>,
    bytes: usize,
}

impl Batch {
    /// Adds events and parses them; returns any other work.
    fn add(&mut self, work: Work) -> Option<Work> {
        let Work::Fold(arrived) = work else { return Some(work) };
        self.bytes += arrived.iter().map(Arrived::size).sum::<usize>();
        self.stored.extend(arrived.iter().map(Arrived::stored));
        self.arrived.extend(arrived);
        None
    }

    fn is_full(&self) -> bool {
        self.arrived.len() >= MAX_FOLD_EVENTS || self.bytes >= MAX_FOLD_BYTES
    }

    fn clear(&mut self) {
        self.arrived.clear();
        self.stored.clear();
        self.bytes = 0;
    }
}

/// Returns how long after a batch that took so long the next may be folded.
fn interval(took: Duration, last: Option<&Arrived>) -> Duration {
    if last.is_some_and(|last| last.pending > BEHIND) {
        return Duration::ZERO;
    }
    (took * FOLD_REST).clamp(INTERVAL, MAX_INTERVAL)
}

struct Writer {
    folder: Folder,
    feed: Arc<Feed>,
    pace: Pace,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    runtime: Handle,
    /// When the last batch was folded.
    folded_at: Instant,
    /// How long after that the next may be.
    interval: Duration,
}

impl Writer {
    fn run(&mut self, mut work: mpsc::Receiver<Work>) {
        let mut batch = Batch::default();
        while let Some(first) = work.blocking_recv() {
            let mut other = batch.add(first);
            if other.is_none() {
                // Events that arrive meanwhile wait in the channel, and so does their reader.
                std::thread::sleep(self.interval.saturating_sub(self.folded_at.elapsed()));
            }
            let started = Instant::now();
            while other.is_none() && !batch.is_full() && started.elapsed() < MAX_BATCH_TIME {
                let Ok(next) = work.try_recv() else { break };
                other = batch.add(next);
            }
            let went_on = self.fold(&batch);
            self.folded_at = Instant::now();
            self.interval = interval(started.elapsed(), batch.arrived.last());
            batch.clear();
            let goes_on = went_on
                && match other {
                    Some(Work::Align { created, last_sequence, reply }) => {
                        self.align(created, last_sequence, reply)
                    }
                    Some(Work::AtEnd) => self.complete(),
                    Some(Work::Fold(_)) | None => true,
                };
            if !goes_on {
                return;
            }
        }
    }

    /// Folds a batch until that succeeds; returns `false` when it is time to stop.
    fn fold(&mut self, batch: &Batch) -> bool {
        let Some(last) = batch.arrived.last() else { return true };
        let mut told = false;
        let folded = self.until_it_works(|writer| {
            let outcome = writer.folder.fold(&batch.stored);
            if !std::mem::replace(&mut told, true) {
                // Also if it failed: a full disk here must not withhold events from subscribers.
                writer.pace.tell(&batch.arrived);
            }
            outcome
        });
        let Some(folded) = folded else { return false };
        self.metrics.events_folded.fetch_add(folded as u64, Ordering::Relaxed);
        self.metrics.projection_sequence.store(self.folder.last_sequence(), Ordering::Relaxed);
        self.feed.set_folded(self.folder.last_sequence());
        self.feed.set_folded_until(last.time);
        !self.feed.is_at_end(last) || self.complete()
    }

    /// Does the work that remains when all events are folded; returns `false` when it is time to
    /// stop.
    fn complete(&mut self) -> bool {
        let completed = self.until_it_works(|writer| writer.folder.complete()).is_some();
        if completed {
            self.feed.set_caught_up();
        }
        completed
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
        // Nobody waits for the answer if the reader was stopped.
        let _unheard = reply.send(now);
        true
    }

    fn until_it_works<T>(
        &mut self,
        mut step: impl FnMut(&mut Self) -> Result<T, super::ProjectionError>,
    ) -> Option<T> {
        let mut backoff = UNTIL_NATS_IS_BACK.pauses();
        loop {
            match step(self) {
                Ok(value) => return Some(value),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the projection makes no progress");
                }
            }
            let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
            if !runtime.block_on(backoff.wait_unless(stop.cancelled())) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_queue::events::EventMessage;

    fn arrived(pending: u64) -> Arrived {
        Arrived::of(EventMessage {
            sequence: 1,
            pending,
            time: slipway_proto::Timestamp::UNIX_EPOCH,
            project: Some("team".parse().expect("a name")),
            build: None,
            short_type: "build.stage".to_owned(),
            payload: bytes::Bytes::new(),
        })
    }

    #[test]
    fn batches_are_as_far_apart_as_they_cost_within_bounds() {
        let interval =
            |took, pending| interval(Duration::from_micros(took), Some(&arrived(pending)));
        assert_eq!(interval(100, 0), INTERVAL, "a lone event");
        assert_eq!(interval(1_000, 10), Duration::from_millis(4), "thousands a second");
        assert_eq!(interval(50_000, BEHIND), MAX_INTERVAL, "what subscribers wait at most");
        assert_eq!(interval(50_000, BEHIND + 1), Duration::ZERO, "a rebuild");
    }
}
