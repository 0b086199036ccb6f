// SPDX-License-Identifier: Apache-2.0

//! One measurement, and the figures of several.

use serde::Serialize;

/// The cost of one run of one variant.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// The scenario it belongs to.
    pub scenario: &'static str,
    /// The program that did the work.
    pub variant: &'static str,
    /// The round, from 1. Round 0 goes through the counting proxy and is in no median.
    pub round: u32,
    /// The place in the order of its round.
    pub slot: usize,
    /// Wall-clock time in milliseconds.
    pub wall_ms: f64,
    /// Processor time of the client's processes in milliseconds.
    pub cpu_ms: f64,
    /// The peak memory of a process, in bytes; for a resident one, above its idle memory.
    pub peak_bytes: Option<u64>,
    /// How many requests the registry answered.
    pub requests: Option<usize>,
    /// The same by their names, where the names are known.
    pub named: Vec<NamedRequests>,
    /// How many bytes went to the registry, with their requests' headers.
    pub sent_bytes: Option<u64>,
    /// Whether the machine was still busy with other things when the measurement began.
    pub busy: bool,
    /// The digest of the image's manifest, where the variant names it.
    pub digest: Option<String>,
    /// The stages of the build and their milliseconds, where the variant names them.
    pub stages: Vec<(&'static str, f64)>,
}

/// Requests of one kind in one build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NamedRequests {
    /// What they are for.
    pub name: &'static str,
    /// How many the registry answered.
    pub seen: usize,
    /// How many the protocol asks for.
    pub asked: usize,
}

/// Selects the samples of one variant in one scenario, without round 0.
pub fn of<'a>(
    samples: &'a [Sample],
    scenario: &'a str,
    variant: &'a str,
) -> impl Iterator<Item = &'a Sample> + Clone {
    samples.iter().filter(move |sample| {
        sample.scenario == scenario && sample.variant == variant && sample.round > 0
    })
}

/// Returns the median: the middle value, or the mean of the two middle ones. Without values it is
/// not a number, so that no goal is met by nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Returns the smallest value; not a number without values.
#[must_use]
pub fn minimum(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().reduce(f64::min).unwrap_or(f64::NAN)
}

/// Returns a count as a number to calculate with. Exact up to 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "nothing here is counted to 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Returns a duration in milliseconds.
#[must_use]
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_there() {
        assert_eq!(median([3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median([]).is_nan() && minimum([]).is_nan());
        assert_eq!(minimum([3.0, 1.0, 2.0]).to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn the_round_through_the_proxy_is_in_no_median() {
        let sample =
            |round, variant| Sample { scenario: "new", variant, round, ..Sample::default() };
        let samples = [sample(0, "a"), sample(1, "a"), sample(2, "b"), sample(2, "a")];
        let rounds: Vec<u32> = of(&samples, "new", "a").map(|sample| sample.round).collect();
        assert_eq!(rounds, [1, 2]);
    }
}
