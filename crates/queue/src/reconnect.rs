// SPDX-License-Identifier: Apache-2.0

//! What to do when a lost connection is restored.
//!
//! A restarted server has forgotten its readers and the requests that waited on it, and the client
//! notices that only by their silence. So a reader ends when the connection returns, and the loop
//! here opens it again.

use std::sync::atomic::{AtomicBool, Ordering};

use slipway_fault::Backoff;
use tokio::sync::watch;

use crate::Queue;
use crate::read::error::ReadError;

/// The pauses between attempts at something that needs NATS. A restarted server is back within a
/// second, so the first attempts are close together. The longest pause is how long a reader may be
/// idle after the server's return.
pub const UNTIL_NATS_IS_BACK: Backoff = Backoff::constant(50, 2, 2_000, 20);

/// Reports that a lost connection was restored: the moment to repeat what a server forgets.
#[derive(Debug)]
pub struct Reconnections(watch::Receiver<u64>);

impl Reconnections {
    /// Watches from now on a count that grows with each connection.
    pub(crate) fn new(connections: &watch::Receiver<u64>) -> Self {
        let mut connections = connections.clone();
        connections.mark_unchanged();
        Self(connections)
    }

    /// Waits until the connection has been restored since this was made or last resolved.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The connection was closed for good.
            std::future::pending::<()>().await;
        }
    }
}

/// Whether a reader got anything since it was opened.
#[derive(Debug, Default)]
pub struct Progress(AtomicBool);

impl Progress {
    /// Notes that something was read, so that the next break is the first again.
    pub fn made(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Queue {
    /// Returns a watch for restored connections, from now on.
    #[must_use]
    pub fn reconnections(&self) -> Reconnections {
        Reconnections::new(&self.connections)
    }
}

/// Reads a stream for as long as it takes, across every break.
pub trait Reading {
    /// The end of the reading.
    type Outcome;

    /// Opens a reader where the last one stopped, and reads until nothing is left to do or the
    /// reader ends.
    fn read(
        &mut self,
        progress: &Progress,
    ) -> impl Future<Output = Result<Self::Outcome, ReadError>> + Send;

    /// Reports a failure, after which another reader is opened.
    fn broke(&self, error: &ReadError);
}

/// Reads until there is nothing left to do.
///
/// After a failure there is a pause, which doubles as long as the reading makes no progress; after a
/// reconnection there is none.
pub async fn keep_reading<R: Reading>(reading: &mut R) -> R::Outcome {
    let progress = Progress::default();
    let mut pauses = UNTIL_NATS_IS_BACK.pauses();
    loop {
        match reading.read(&progress).await {
            Ok(outcome) => return outcome,
            Err(ReadError::Reconnected { stream }) => {
                tracing::debug!(stream, "connected again; opening another reader");
            }
            Err(error) => {
                reading.broke(&error);
                if progress.take() {
                    pauses.reset();
                }
                pauses.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    /// Ends in the listed ways, one after the other.
    struct Broken {
        start: Instant,
        ways: Vec<Way>,
        /// When it was opened, in milliseconds.
        opened: Vec<u128>,
        failures: AtomicUsize,
    }

    #[derive(Clone, Copy)]
    enum Way {
        Stalls,
        StallsAfterProgress,
        Reconnects,
    }

    impl Broken {
        fn new(ways: &[Way]) -> Self {
            let failures = AtomicUsize::new(0);
            Self { start: Instant::now(), ways: ways.to_vec(), opened: Vec::new(), failures }
        }
    }

    impl Reading for Broken {
        type Outcome = ();

        async fn read(&mut self, progress: &Progress) -> Result<(), ReadError> {
            self.opened.push(self.start.elapsed().as_millis());
            let stream = "EVENTS".to_owned();
            match self.ways.get(self.opened.len() - 1) {
                Some(Way::Reconnects) => Err(ReadError::Reconnected { stream }),
                Some(Way::Stalls) => Err(ReadError::Stalled { stream }),
                Some(Way::StallsAfterProgress) => {
                    progress.made();
                    Err(ReadError::Stalled { stream })
                }
                None => Ok(()),
            }
        }

        fn broke(&self, _error: &ReadError) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_something_is_read() {
        use Way::{Stalls, StallsAfterProgress};
        let mut reading = Broken::new(&[Stalls, Stalls, Stalls, StallsAfterProgress, Stalls]);
        keep_reading(&mut reading).await;
        // From the first again after the fourth.
        for (count, failures) in [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2)] {
            let pause = reading.opened[count] - reading.opened[count - 1];
            let longest = UNTIL_NATS_IS_BACK.nominal(failures).as_millis();
            assert!((longest * 8 / 10..=longest + 1).contains(&pause), "{:?}", reading.opened);
        }
        assert_eq!(reading.failures.into_inner(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_opened_again_at_once_when_the_connection_returns() {
        let mut reading = Broken::new(&[Way::Reconnects; 3]);
        keep_reading(&mut reading).await;
        assert_eq!(reading.opened, [0; 4]);
        assert_eq!(reading.failures.into_inner(), 0, "nothing is reported");
    }

    #[tokio::test(start_paused = true)]
    async fn only_connections_that_come_later_are_news() {
        let (connected, connections) = watch::channel(0_u64);
        connected.send_modify(|count| *count += 1);
        let mut reconnections = Reconnections::new(&connections);
        let waited = tokio::time::timeout(Duration::from_secs(1), reconnections.next()).await;
        assert!(waited.is_err(), "it was there before");
        connected.send_modify(|count| *count += 1);
        reconnections.next().await;
        drop(connected);
        let waited = tokio::time::timeout(Duration::from_secs(1), reconnections.next()).await;
        assert!(waited.is_err(), "a connection that is closed does not return");
    }
}
