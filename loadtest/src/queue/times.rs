// SPDX-License-Identifier: Apache-2.0

//! Times and rates, as cells of a row and as goals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::row::Goal;

/// How long something took, many times over.
#[derive(Debug, Clone)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// Takes the times of at least one thing.
    pub(super) fn of(mut times: Vec<Duration>) -> anyhow::Result<Self> {
        anyhow::ensure!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Ok(Self(times))
    }

    /// Returns a percentile.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    /// Returns how many, the median, the 99th percentile and the longest.
    pub(super) fn cells(&self) -> Vec<(&'static str, String)> {
        vec![
            ("samples", self.0.len().to_string()),
            ("p50", shown(self.percentile(50))),
            ("p99", shown(self.percentile(99))),
            ("max", shown(self.percentile(100))),
        ]
    }

    /// Returns the ratio of a percentile to that of others.
    pub(super) fn ratio(&self, others: &Self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() / others.percentile(percent).as_secs_f64()
    }

    /// Returns the goal that a percentile is at most a multiple of the same one of others.
    pub(super) fn at_most(&self, percent: usize, bound: f64, others: (&Self, &str)) -> Goal {
        let (times, name) = others;
        Goal::at_most(&format!("p{percent} of {name}"), bound, self.ratio(times, percent), "x")
    }

    /// Returns the goal that a percentile stays below a time.
    pub(super) fn below(&self, percent: usize, limit: Duration) -> Goal {
        let seen = self.percentile(percent);
        Goal {
            what: format!("p{percent}"),
            wanted: format!("< {}", shown(limit)),
            seen: shown(seen),
            met: seen < limit,
        }
    }
}

/// Writes a time in milliseconds.
pub(super) fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Returns how many a second these are.
pub(super) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Returns the time since the epoch, to compare with what other processes of this machine say.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let times = Times::of(times).expect("there are some");
        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(times.percentile(100), Duration::from_millis(200));
        assert!(times.below(50, Duration::from_millis(101)).met);
        assert!(!times.below(50, Duration::from_millis(100)).met);
        assert!(Times::of(Vec::new()).is_err());
        let others = Times::of(vec![Duration::from_millis(50)]).expect("there is one");
        assert!(times.at_most(50, 2.0, (&others, "others")).met);
        assert!(!times.at_most(99, 2.0, (&others, "others")).met);
    }
}
