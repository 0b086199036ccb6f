// SPDX-License-Identifier: Apache-2.0

//! Turns: what many builds want at once is done by one, and the others use what it did.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

use crate::pulse::Pulse;

/// Since when something is known to be so, and what came of it.
type Last<V> = Option<(Instant, V)>;

/// The turns of things that are named by keys.
pub(crate) struct Turns<K, V> {
    slots: Mutex<HashMap<K, Weak<tokio::sync::Mutex<Last<V>>>>>,
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

/// The right to do something, which nobody else has until this is dropped.
pub(crate) struct Turn<V> {
    last: OwnedMutexGuard<Last<V>>,
    asked_at: Instant,
}

impl<K: Eq + Hash, V> Turns<K, V> {
    /// Waits until nobody else does what the key names. Whatever moves meanwhile, as told by
    /// `life`, is a sign of life of who waits.
    pub(crate) async fn take(&self, key: K, life: &watch::Sender<()>, pulse: &Pulse) -> Turn<V> {
        let asked_at = Instant::now();
        let turn = self.slot(key).lock_owned();
        let mut turn = std::pin::pin!(turn);
        let mut moves = life.subscribe();
        loop {
            tokio::select! {
                biased;
                last = &mut turn => return Turn { last, asked_at },
                moved = moves.changed() => {
                    // A build that is over is dropped by who runs it.
                    let _over = pulse.beat();
                    if moved.is_err() {
                        return Turn { last: turn.await, asked_at };
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

impl<V> Turn<V> {
    /// Returns what came of it if somebody else did it while this turn was waited for. What was
    /// done before may have been undone since.
    pub(crate) fn done(&self) -> Option<&V> {
        let (at, value) = self.last.as_ref()?;
        (*at >= self.asked_at).then_some(value)
    }

    /// Says that it is done.
    pub(crate) fn finish(self, value: V) {
        self.finish_as_of(Instant::now(), value);
    }

    /// Says what was so at a moment: only for those who asked before it.
    pub(crate) fn finish_as_of(mut self, at: Instant, value: V) {
        *self.last = Some((at, value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn take(turns: &Turns<&'static str, u32>, life: &watch::Sender<()>) -> Turn<u32> {
        turns.take("key", life, &Pulse::default()).await
    }

    #[tokio::test]
    async fn one_does_it_and_those_who_waited_use_it() {
        let (turns, life) = (Turns::default(), watch::Sender::new(()));
        let done = AtomicU32::new(0);
        let one = || async {
            let turn = take(&turns, &life).await;
            if let Some(value) = turn.done() {
                return *value;
            }
            tokio::task::yield_now().await;
            turn.finish(done.fetch_add(1, Ordering::Relaxed) + 1);
            1
        };
        let values = futures::future::join_all((0..20).map(|_| one())).await;
        assert_eq!(values, vec![1; 20]);
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert!(take(&turns, &life).await.done().is_none(), "it was done before this was asked");
    }

    #[tokio::test]
    async fn who_asks_while_it_is_read_gets_what_is_read_later() {
        let (turns, life) = (Turns::default(), watch::Sender::new(()));
        let first = take(&turns, &life).await;
        let begun = Instant::now();
        let mut second = std::pin::pin!(take(&turns, &life));
        let mut third = std::pin::pin!(take(&turns, &life));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        first.finish_as_of(begun, 1);
        let second = second.await;
        assert_eq!(second.done(), None, "what the first read may be older than the question");
        second.finish_as_of(Instant::now(), 2);
        assert_eq!(third.await.done(), Some(&2));
    }

    #[tokio::test]
    async fn when_the_first_fails_the_next_does_it() {
        let (turns, life) = (Turns::default(), watch::Sender::new(()));
        let first = take(&turns, &life).await;
        let mut second = std::pin::pin!(take(&turns, &life));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.done().is_none());
    }
}
