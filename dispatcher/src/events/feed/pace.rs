// SPDX-License-Identifier: Apache-2.0

//! Sends events no faster than they are read.
//!
//! Thousands of events are folded at once after a pause of NATS or during a rebuild. Sent at once,
//! they would drop every subscriber, and all would come back at the same moment and read the missed
//! events from the stream, each with a consumer of its own. Nor may a subscriber that does not read
//! delay the others: it gets its time, and then loses its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Arrived, Feed, MAX_LAG};

/// How many events are sent at once.
const PORTION: usize = MAX_LAG / 8;

/// How many unread events are no reason to wait. The other half of the places allows readers to
/// pause.
const MAX_UNREAD: usize = MAX_LAG / 2;

/// How long subscribers have for an event before the next one follows anyway. A tenth of a
/// millisecond delays events only above ten thousand a second, twice the intended rate.
const READING: Duration = Duration::from_micros(100);

/// How often to check whether they have read.
const CHECK_EVERY: Duration = Duration::from_micros(500);

/// Sends events, portion by portion.
#[derive(Debug)]
pub(crate) struct Pace {
    feed: Arc<Feed>,
    /// How long subscribers have for an event.
    reading: Duration,
    /// Until when they have time for the last portion.
    until: Instant,
}

impl Pace {
    pub(crate) fn new(feed: Arc<Feed>) -> Self {
        Self { feed, reading: READING, until: Instant::now() }
    }

    /// Sends events; blocks while they arrive faster than they are read.
    pub(crate) fn tell(&mut self, arrived: &[Arrived]) {
        for portion in arrived.chunks(PORTION) {
            while self.feed.max_unread(portion) > MAX_UNREAD {
                let left = self.until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(CHECK_EVERY));
            }
            let mut reading = Duration::ZERO;
            for arrived in portion {
                self.feed.tell(arrived);
                reading += self.reading;
            }
            self.until = Instant::now() + reading;
        }
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::Digest;
    use tokio::sync::broadcast::error::TryRecvError;

    use super::super::Told;
    use super::super::tests::message;
    use super::*;

    /// As many as one fold has at most.
    const A_FOLDS_EVENTS: u64 = 4 * MAX_LAG as u64;

    fn many() -> Vec<Arrived> {
        (1..=A_FOLDS_EVENTS).map(|sequence| Arrived::of(message(sequence))).collect()
    }

    #[test]
    fn who_reads_keeps_its_place_however_many_are_folded_at_once() {
        let feed = Arc::new(Feed::default());
        let mut receiver = feed.subscribe(&"team".parse().expect("a name")).receiver;
        // It takes its time, and gets it.
        let mut pace = Pace { reading: Duration::from_secs(60), ..Pace::new(feed) };
        let telling = std::thread::spawn(move || pace.tell(&many()));
        let mut read = 0;
        while read < A_FOLDS_EVENTS {
            match receiver.try_recv() {
                Ok(Told::Event(notice)) => {
                    // Slower than events are told.
                    std::hint::black_box(Digest::of(&[0; 16 * 1024]));
                    read += 1;
                    assert_eq!(notice.sequence, read);
                }
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                other => panic!("{other:?} behind {read}"),
            }
        }
        telling.join().expect("it does not panic");
    }

    #[test]
    fn who_does_not_read_holds_nobody_up_for_long() {
        let feed = Arc::new(Feed::default());
        let mut receiver = feed.subscribe(&"team".parse().expect("a name")).receiver;
        let others = feed.subscribe(&"other".parse().expect("a name"));
        let mut pace = Pace { reading: Duration::from_nanos(1), ..Pace::new(feed) };
        pace.tell(&many());
        assert!(matches!(receiver.try_recv(), Err(TryRecvError::Lagged(_))));
        assert!(others.receiver.is_empty());
    }
}
