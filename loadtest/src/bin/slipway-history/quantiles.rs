// SPDX-License-Identifier: Apache-2.0

//! Times of repeated measurements.

use std::time::Duration;

use serde::Serialize;

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    /// Half of all took less.
    pub(crate) p50: f64,
    /// 99 of 100 took less.
    pub(crate) p99: f64,
    /// All took less or as much.
    pub(crate) max: f64,
}

impl Quantiles {
    /// Returns the quantiles of some times; zeros of none.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            // The nearest-rank method: the smallest time that so many do not exceed.
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| round(time.as_secs_f64() * 1e3))
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

fn round(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let quantiles = Quantiles::of(times);
        assert_eq!(quantiles, Quantiles { p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
        let one = Quantiles::of(vec![Duration::from_millis(7)]);
        assert_eq!(one, Quantiles { p50: 7.0, p99: 7.0, max: 7.0 });
    }
}
