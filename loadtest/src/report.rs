// SPDX-License-Identifier: Apache-2.0

//! What the load test found.

use std::time::Duration;

use serde::Serialize;

use crate::watch::Outcomes;
use crate::{Options, Submitted};

/// How many failures are written out.
const SHOWN_FAILURES: usize = 10;

/// What the load test found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How many builds there were to be.
    pub builds: u64,
    /// How many submissions were under way at once.
    pub concurrency: u64,
    /// How many were accepted.
    pub accepted: usize,
    /// How many succeeded.
    pub succeeded: usize,
    /// How many failed or were cancelled.
    pub failed: usize,
    /// How many had no outcome in time.
    pub unfinished: usize,
    /// How many ended without their event having arrived.
    pub unheard: usize,
    /// Accepted builds per second, while submitting.
    pub submitted_per_s: f64,
    /// Finished builds per second, over all.
    pub finished_per_s: f64,
    /// From sending a submission to its answer.
    pub submit_ms: Quantiles,
    /// From sending a submission to the arrival of its outcome.
    pub submit_to_finished_ms: Quantiles,
    /// The time of the whole run in seconds.
    pub total_s: f64,
    /// Some of what went wrong.
    pub failures: Vec<String>,
}

/// How long something took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of all took less.
    pub p50: f64,
    /// 99 of 100 took less.
    pub p99: f64,
    /// All took less or as much.
    pub max: f64,
}

impl Quantiles {
    /// Returns the quantiles of some times; zeros of none.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            // The nearest-rank method: the smallest time that so many do not exceed.
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| round(time.as_secs_f64() * 1e3))
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        submitted: &[Submitted],
        refused: Vec<String>,
        outcomes: &Outcomes,
        submitting: Duration,
        total: Duration,
    ) -> Self {
        let ended: Vec<_> =
            submitted.iter().filter_map(|one| Some((one, outcomes.get(&one.build)?))).collect();
        let mut failures = refused;
        failures.extend(ended.iter().filter_map(|(one, ended)| {
            ended.failure.as_ref().map(|failure| format!("{}: {failure}", one.build))
        }));
        let failed = ended.iter().filter(|(_, ended)| ended.failure.is_some()).count();
        failures.truncate(SHOWN_FAILURES);
        let per_s = |count: usize, time: Duration| round(count as f64 / time.as_secs_f64());
        Self {
            builds: options.builds,
            concurrency: options.concurrency,
            accepted: submitted.len(),
            succeeded: ended.len() - failed,
            failed,
            unfinished: submitted.len() - ended.len(),
            unheard: ended.iter().filter(|(_, ended)| ended.unheard).count(),
            submitted_per_s: per_s(submitted.len(), submitting),
            finished_per_s: per_s(ended.len(), total),
            submit_ms: Quantiles::of(
                submitted.iter().map(|one| one.answered - one.started).collect(),
            ),
            submit_to_finished_ms: Quantiles::of(
                ended
                    .iter()
                    .filter(|(_, ended)| !ended.unheard)
                    .map(|(one, ended)| ended.at - one.started)
                    .collect(),
            ),
            total_s: round(total.as_secs_f64()),
            failures,
        }
    }

    /// Returns whether every build succeeded.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.succeeded as u64 == self.builds
    }

    /// Returns the report in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let (submit, finished) = (&self.submit_ms, &self.submit_to_finished_ms);
        format!(
            "loadtest: {} of {} builds succeeded in {:.2} s ({:.0}/s); {:.0} submitted/s, p50 {:.1} ms, \
             p99 {:.1} ms; submit to finished p50 {:.1} ms, p99 {:.1} ms",
            self.succeeded,
            self.builds,
            self.total_s,
            self.finished_per_s,
            self.submitted_per_s,
            submit.p50,
            submit.p99,
            finished.p50,
            finished.p99
        )
    }
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
