// SPDX-License-Identifier: Apache-2.0

//! Single flight: of several callers that want the same thing at the same time, one fetches it and
//! the others use its result.
//!
//! Unlike a cache this keeps nothing for later callers. A caller gets only a result that was read
//! after it asked. When the caller that fetches fails or is dropped, the next one takes its place.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

/// The last result of a key, and the moment for which it holds.
type Last<V> = Option<(Instant, V)>;

/// Calls under way, by key.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    slots: Mutex<HashMap<K, Weak<tokio::sync::Mutex<Last<V>>>>>,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

/// The exclusive right to fetch what a key names. Dropping it lets the next caller fetch.
#[derive(Debug)]
pub struct Flight<V> {
    last: OwnedMutexGuard<Last<V>>,
    asked_at: Instant,
}

impl<K: Eq + Hash, V> SingleFlight<K, V> {
    /// Waits until no other caller fetches what the key names.
    pub async fn join(&self, key: K) -> Flight<V> {
        let asked_at = Instant::now();
        Flight { last: self.slot(key).lock_owned().await, asked_at }
    }

    /// Waits as [`join`](Self::join) does, and calls `on_progress` whenever `progress` changes
    /// meanwhile. So a caller that waits for another's upload can tell that it is not stuck.
    pub async fn join_observing(
        &self,
        key: K,
        progress: &watch::Sender<()>,
        mut on_progress: impl FnMut(),
    ) -> Flight<V> {
        let mut flight = std::pin::pin!(self.join(key));
        let mut moves = progress.subscribe();
        loop {
            tokio::select! {
                biased;
                flight = &mut flight => return flight,
                moved = moves.changed() => {
                    on_progress();
                    if moved.is_err() {
                        return flight.await;
                    }
                }
            }
        }
    }

    fn slot(&self, key: K) -> Arc<tokio::sync::Mutex<Last<V>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&key).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::default();
        slots.insert(key, Arc::downgrade(&slot));
        slot
    }
}

impl<V> Flight<V> {
    /// Returns the result of another caller, if it holds for a moment after this caller asked. An
    /// older result may no longer be true.
    #[must_use]
    pub fn result(&self) -> Option<&V> {
        let (at, value) = self.last.as_ref()?;
        (*at >= self.asked_at).then_some(value)
    }

    /// Hands a result that holds now to the callers that wait.
    pub fn complete(self, value: V) {
        self.complete_as_of(Instant::now(), value);
    }

    /// Hands over a result that held at a moment: only callers that asked before it use it.
    pub fn complete_as_of(mut self, at: Instant, value: V) {
        *self.last = Some((at, value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_caller_fetches_and_those_that_waited_use_its_result() {
        let flights = SingleFlight::<&str, u32>::default();
        let done = AtomicU32::new(0);
        let one = || async {
            let flight = flights.join("key").await;
            if let Some(value) = flight.result() {
                return *value;
            }
            tokio::task::yield_now().await;
            flight.complete(done.fetch_add(1, Ordering::Relaxed) + 1);
            1
        };
        let values = futures::future::join_all((0..20).map(|_| one())).await;
        assert_eq!(values, vec![1; 20]);
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert!(
            flights.join("key").await.result().is_none(),
            "the result is older than the question"
        );
    }

    #[tokio::test]
    async fn a_caller_that_asks_during_a_read_gets_a_later_one() {
        let flights = SingleFlight::<&str, u32>::default();
        let first = flights.join("key").await;
        let begun = Instant::now();
        let mut second = std::pin::pin!(flights.join("key"));
        let mut third = std::pin::pin!(flights.join("key"));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        first.complete_as_of(begun, 1);
        let second = second.await;
        assert_eq!(second.result(), None, "the first read may be older than the question");
        second.complete_as_of(Instant::now(), 2);
        assert_eq!(third.await.result(), Some(&2));
    }

    #[tokio::test]
    async fn when_the_first_fails_the_next_fetches() {
        let flights = SingleFlight::<&str, u32>::default();
        let first = flights.join("key").await;
        let mut second = std::pin::pin!(flights.join("key"));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.result().is_none());
    }

    #[tokio::test]
    async fn a_caller_that_waits_hears_of_the_progress_of_the_other() {
        let flights = SingleFlight::<&str, u32>::default();
        let (progress, heard) = (watch::Sender::new(()), AtomicU32::new(0));
        let first = flights.join("key").await;
        let on_progress = || {
            heard.fetch_add(1, Ordering::Relaxed);
        };
        let mut second = std::pin::pin!(flights.join_observing("key", &progress, on_progress));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        progress.send_replace(());
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(heard.load(Ordering::Relaxed), 1);
        drop(first);
        assert!(second.await.result().is_none());
    }
}
