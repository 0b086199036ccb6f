// SPDX-License-Identifier: Apache-2.0

//! The drawing of the JAR's three scenarios, for people who read no table.

use super::jar::{NEW, NOTHING, ONE_CLASS};
use super::variants::{BUILDAH, FLOOR, LOCAL, QUEUE, UMOCI};
use crate::samples::{Sample, median, of};
use crate::svg::{Bar, Group, Kind, draw};

/// Figures of programs that Debian does not have: measured in November 2026 on another machine, with
/// inputs of the same shape, where the floor took 268 to 293 ms.
const CONSTANTS: [(&str, [Option<f64>; 3]); 3] = [
    ("crane append", [Some(494.0), None, Some(231.0)]),
    ("Jib CLI, packaged", [Some(2672.0), None, Some(1080.0)]),
    ("Jib CLI, exploded", [Some(4921.0), Some(1750.0), Some(1751.0)]),
];

/// Draws the three scenarios of the JAR, if they were measured.
#[must_use]
pub fn drawing(samples: &[Sample], date: &str, machine: &str) -> Option<String> {
    let mut longest = 0.0_f64;
    let mut groups = Vec::new();
    for (column, scenario) in [NEW, ONE_CLASS, NOTHING].into_iter().enumerate() {
        let mut bars = Vec::new();
        for variant in [FLOOR, QUEUE, LOCAL, UMOCI, BUILDAH] {
            let milliseconds = median(of(samples, scenario, variant).map(|sample| sample.wall_ms));
            if milliseconds.is_nan() {
                continue;
            }
            longest = longest.max(milliseconds);
            let kind = match variant {
                FLOOR => Kind::Floor,
                QUEUE | LOCAL => Kind::Own,
                _ => Kind::Peer,
            };
            let name = if variant == FLOOR { "curl, the same bytes" } else { variant };
            bars.push(Bar { name: name.to_owned(), milliseconds, kind });
        }
        if bars.is_empty() {
            return None;
        }
        for (name, times) in CONSTANTS {
            if let Some(milliseconds) = times[column] {
                let name = format!("{name} *");
                bars.push(Bar { name, milliseconds, kind: Kind::Constant });
            }
        }
        groups.push(Group { title: scenario.to_owned(), bars });
    }
    let note = format!(
        "{date}, median wall-clock time, {machine}; docker-registry on loopback.\n\
         * hatched: other machine, November 2026, where the floor took 268 to 293 ms."
    );
    let title = "A 46 MB Spring Boot JAR becomes an image in a registry";
    Some(draw(title, &note, &groups, longest * 1.15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(scenario: &'static str, variant: &'static str, wall_ms: f64) -> Sample {
        Sample { scenario, variant, round: 1, wall_ms, ..Sample::default() }
    }

    #[test]
    fn nothing_is_drawn_of_a_part_of_the_benchmark() {
        let mut samples = vec![sample(NEW, FLOOR, 200.0), sample(NEW, QUEUE, 250.0)];
        assert!(drawing(&samples, "today", "here").is_none());
        samples.extend([sample(ONE_CLASS, QUEUE, 101.0), sample(NOTHING, LOCAL, 40.0)]);
        let svg = drawing(&samples, "today", "here").expect("all three were measured");
        assert!(svg.contains("Jib CLI, exploded *") && svg.contains("250 ms"));
    }
}
