// SPDX-License-Identifier: Apache-2.0

//! The pauses between attempts at something that may succeed later.
//!
//! The pause grows by a factor with each failure up to a longest one, and a random part of it is
//! taken off, so that processes that failed together do not come back together. Taken off and not
//! added: the longest pause is then a bound that deadlines can rely on.
//!
//! Not the `backon` crate: its builder accepts every combination of values, adds its jitter on top
//! of the longest pause and takes randomness from a global generator, which a property test cannot
//! inject.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// A schedule of pauses. Valid by construction; use [`Backoff::constant`] for a `const`, where a
/// mistake does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    factor: u32,
    longest: Duration,
    jitter_percent: u32,
}

/// Why values are no schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// Every pause would be zero: a busy loop.
    #[error("the first pause is zero")]
    NoPause,
    /// Pauses would shrink.
    #[error("the longest pause is shorter than the first")]
    Shrinking,
    /// Pauses would be zero from the second on, or would never reach the longest.
    #[error("the factor is less than 2, and the longest pause is not the first")]
    NoGrowth,
    /// A random pause would be negative, or zero.
    #[error("the jitter is not at most 90 percent")]
    Jitter,
}

impl Backoff {
    /// Makes a schedule: `first` after the first failure, `factor` times as long after each further
    /// one, never more than `longest`; up to `jitter_percent` of each pause is taken off at random.
    ///
    /// # Errors
    ///
    /// Returns the first rule that the values break: see [`InvalidBackoff`].
    pub const fn new(
        first: Duration,
        factor: u32,
        longest: Duration,
        jitter_percent: u32,
    ) -> Result<Self, InvalidBackoff> {
        if first.is_zero() {
            return Err(InvalidBackoff::NoPause);
        }
        if longest.as_nanos() < first.as_nanos() {
            return Err(InvalidBackoff::Shrinking);
        }
        let constant = factor == 1 && longest.as_nanos() == first.as_nanos();
        if factor < 2 && !constant {
            return Err(InvalidBackoff::NoGrowth);
        }
        if jitter_percent > 90 {
            return Err(InvalidBackoff::Jitter);
        }
        Ok(Self { first, factor, longest, jitter_percent })
    }

    /// Makes a schedule for a `const`: the arguments of [`new`](Self::new), times in milliseconds.
    ///
    /// # Panics
    ///
    /// When they are invalid; in a `const` that is an error of the compiler.
    #[must_use]
    pub const fn constant(first: u64, factor: u32, longest: u64, jitter_percent: u32) -> Self {
        let (first, longest) = (Duration::from_millis(first), Duration::from_millis(longest));
        match Self::new(first, factor, longest, jitter_percent) {
            Ok(backoff) => backoff,
            Err(_) => panic!("the values are no schedule of pauses"),
        }
    }

    /// Returns the pause after so many failures in a row, at least 1, before jitter.
    #[must_use]
    pub fn nominal(&self, failures: u32) -> Duration {
        let growth = self.factor.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(growth).min(self.longest)
    }

    /// Returns the pause after so many failures in a row, at least 1.
    pub fn pause(&self, failures: u32, random: &mut impl Rng) -> Duration {
        let nominal = self.nominal(failures);
        let least = nominal.mul_f64(f64::from(100 - self.jitter_percent) / 100.0);
        random.random_range(least..=nominal)
    }

    /// Returns a count of failures that gives their pauses.
    #[must_use]
    pub const fn pauses(self) -> Pauses {
        Pauses { backoff: self, failures: 0 }
    }
}

/// Counts failures in a row and gives the pause after each.
#[derive(Debug, Clone)]
pub struct Pauses {
    backoff: Backoff,
    failures: u32,
}

impl Pauses {
    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how many failures there were in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and returns the pause after it.
    pub fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.pause(self.failures, &mut rand::rng())
    }

    /// Counts a failure and waits for the pause after it.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// Counts a failure and waits for the pause after it; returns `false` when `stop` came first.
    pub async fn wait_unless(&mut self, stop: impl Future) -> bool {
        tokio::time::timeout(self.next_pause(), stop).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn schedule() -> impl Strategy<Value = Backoff> {
        (1..10_000_u64, 2..10_u32, 0..100_000_u64, 0..=90_u32).prop_map(
            |(first, factor, above, jitter)| {
                Backoff::new(millis(first), factor, millis(first + above), jitter)
                    .expect("the values are in their ranges")
            },
        )
    }

    proptest! {
        #[test]
        fn a_pause_is_never_longer_than_the_longest_nor_shorter_than_the_jitter_allows(
            backoff in schedule(), failures: u32, seed: u64
        ) {
            let pause = backoff.pause(failures, &mut StdRng::seed_from_u64(seed));
            let nominal = backoff.nominal(failures);
            prop_assert!(pause <= nominal && nominal <= backoff.longest);
            prop_assert!(pause >= nominal.mul_f64(0.099_999), "{pause:?} of {nominal:?}");
            prop_assert!(!pause.is_zero());
        }

        #[test]
        fn pauses_grow_until_the_longest_and_stay_there(backoff in schedule(), failures in 1..100_u32) {
            let (now, next) = (backoff.nominal(failures), backoff.nominal(failures + 1));
            let grown = now.saturating_mul(backoff.factor).min(backoff.longest);
            prop_assert_eq!(next, grown);
            prop_assert_eq!(backoff.nominal(u32::MAX), backoff.longest);
        }

        #[test]
        fn the_constructor_accepts_exactly_what_is_a_schedule(
            first in 0..5_u64, factor in 0..4_u32, longest in 0..5_u64, jitter in 85..95_u32
        ) {
            let made = Backoff::new(millis(first), factor, millis(longest), jitter);
            let grows = factor >= 2 || (factor == 1 && longest == first);
            let valid = first > 0 && longest >= first && grows && jitter <= 90;
            prop_assert_eq!(made.is_ok(), valid, "{:?}", made);
        }
    }

    #[test]
    fn the_same_randomness_gives_the_same_pause_and_another_spreads_it() {
        let backoff = Backoff::constant(1_000, 2, 60_000, 50);
        let pause = |seed| backoff.pause(3, &mut StdRng::seed_from_u64(seed));
        assert_eq!(pause(1), pause(1));
        let pauses: Vec<_> = (0..100).map(pause).collect();
        let (shortest, longest) = (pauses.iter().min(), pauses.iter().max());
        assert!(shortest < Some(&millis(2_200)) && longest > Some(&millis(3_800)), "{pauses:?}");
    }

    #[test]
    fn a_success_starts_over() {
        let mut pauses = Backoff::constant(10, 10, 1_000, 0).pauses();
        let taken: Vec<_> = (0..4).map(|_| pauses.next_pause()).collect();
        assert_eq!(taken, [millis(10), millis(100), millis(1_000), millis(1_000)]);
        pauses.reset();
        assert_eq!(pauses.next_pause(), millis(10));
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait() {
        let mut pauses = Backoff::constant(60_000, 1, 60_000, 0).pauses();
        assert!(!pauses.wait_unless(std::future::ready(())).await);
        let mut pauses = Backoff::constant(1, 1, 1, 0).pauses();
        assert!(pauses.wait_unless(std::future::pending::<()>()).await);
        assert_eq!(pauses.failures(), 1);
    }
}
