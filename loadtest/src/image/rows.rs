// SPDX-License-Identifier: Apache-2.0

//! Makes rows and the drawing of samples, and holds them against the goals (design, section 11).

use super::elsewhere::{COLD, WARM};
use super::inputs::{LARGE, SMALL, WAR};
use super::jar::{NEW, NOTHING, ONE_CLASS};
use crate::row::{Goal, Row, number};
use crate::samples::{Sample, float, median, minimum, of};
use crate::svg::{Bar, Group, Kind, draw};

const FLOOR: &str = "floor";
const QUEUE: &str = "Slipway, queue";
const LOCAL: &str = "Slipway --local";
const UMOCI: &str = "umoci + skopeo";
const BUILDAH: &str = "buildah";
const POST: &str = "POST before the floor";
const UPLOAD: &str = "upload to the dispatcher";
const VARIANTS: [&str; 7] = [FLOOR, POST, UPLOAD, QUEUE, LOCAL, UMOCI, BUILDAH];

/// A new JAR takes at most so many times the floor.
const NEW_RATIO: f64 = 1.25;
/// One with one class changed takes at most so many times the floor of the whole JAR.
const ONE_CLASS_RATIO: f64 = 0.5;
/// One that did not change takes at most so many milliseconds.
const NOTHING_MS: f64 = 40.0;
/// A new JAR takes at most so many milliseconds of processor time.
const CPU_MS: f64 = 100.0;
/// A new JAR takes at most so many requests.
const REQUESTS: f64 = 8.0;
/// A build needs at most so many MiB above what its worker holds anyway.
const PEAK_MIB: f64 = 64.0;

/// Figures of programs that Debian does not have: measured in November 2026 on another machine, with
/// inputs of the same shape, where the floor took 268 to 293 ms.
const CONSTANTS: [(&str, [Option<f64>; 3]); 3] = [
    ("crane append", [Some(494.0), None, Some(231.0)]),
    ("Jib CLI, packaged", [Some(2672.0), None, Some(1080.0)]),
    ("Jib CLI, exploded", [Some(4921.0), Some(1750.0), Some(1751.0)]),
];

/// Returns the rows of all scenarios that were measured.
#[must_use]
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let sections = [
        ("JAR of 46 MB, base in the registry: new", NEW),
        ("JAR of 46 MB, base in the registry: one class changed", ONE_CLASS),
        ("JAR of 46 MB, base in the registry: nothing changed", NOTHING),
        (WAR, WAR),
        (SMALL, SMALL),
        (LARGE, LARGE),
        ("Base in another registry, cold cache", COLD),
        ("Base in another registry, warm cache", WARM),
    ];
    let mut rows = Vec::new();
    for (section, scenario) in sections {
        // What is done before the clock starts is of interest once.
        let shown = |variant: &&str| scenario == NEW || !matches!(*variant, POST | UPLOAD);
        for variant in VARIANTS.into_iter().filter(shown) {
            rows.extend(row(samples, section, scenario, variant));
        }
    }
    rows.extend(sections.into_iter().filter_map(|(section, scenario)| {
        stages(samples, scenario).map(|row| Row { name: section.to_owned(), ..row })
    }));
    rows
}

/// Returns where the time of builds through the queue goes.
fn stages(samples: &[Sample], scenario: &str) -> Option<Row> {
    let seen: Vec<&Sample> = of(samples, scenario, QUEUE).collect();
    let first = seen.iter().find(|sample| !sample.stages.is_empty())?;
    let median_of = |stage: &str| {
        let times = seen.iter().flat_map(|sample| &sample.stages);
        median(times.filter(|(name, _)| *name == stage).map(|(_, time)| *time))
    };
    let mut cells: Vec<(&'static str, String)> =
        first.stages.iter().map(|(name, _)| (*name, number(median_of(name)))).collect();
    let rest = seen
        .iter()
        .map(|sample| sample.wall_ms - sample.stages.iter().map(|(_, time)| time).sum::<f64>());
    cells.push(("submit, queue, commit", number(median(rest))));
    let section = "Stages of builds through the queue, median ms";
    Some(Row { section, name: String::new(), cells, goals: Vec::new() })
}

fn row(
    samples: &[Sample],
    section: &'static str,
    scenario: &'static str,
    variant: &'static str,
) -> Option<Row> {
    let seen: Vec<&Sample> = of(samples, scenario, variant).collect();
    if seen.is_empty() {
        return None;
    }
    let values = |value: fn(&Sample) -> f64| seen.iter().map(move |sample| value(sample));
    let wall = median(values(|sample| sample.wall_ms));
    let cpu = median(values(|sample| sample.cpu_ms));
    let requests = median(seen.iter().filter_map(|sample| {
        sample.requests.map(|count| float(u64::try_from(count).unwrap_or(u64::MAX)))
    }));
    let peak = seen.iter().filter_map(|sample| sample.peak_bytes).max();
    let peak = peak.map_or(f64::NAN, |bytes| float(bytes) / f64::from(1 << 20));
    let floor = floor(samples, scenario);
    let sent = samples.iter().find_map(|sample| {
        let counted = sample.scenario == scenario && sample.variant == variant;
        sample.sent_bytes.filter(|_| counted)
    });
    let shown = |value: f64| if value.is_nan() { String::new() } else { number(value) };
    let busy = seen.iter().filter(|sample| sample.busy).count();
    let cells = vec![
        ("median ms", number(wall)),
        ("min ms", number(minimum(values(|sample| sample.wall_ms)))),
        ("of the floor", shown(wall / floor)),
        ("CPU ms", number(cpu)),
        ("peak MiB", shown(peak)),
        ("requests", shown(requests)),
        ("sent MB", sent.map_or_else(String::new, |bytes| format!("{:.3}", float(bytes) / 1e6))),
        ("rounds", seen.len().to_string()),
        ("of them busy", if busy == 0 { String::new() } else { busy.to_string() }),
    ];
    let own = matches!(variant, QUEUE | LOCAL);
    let mut goals = match scenario {
        NEW if own => vec![
            Goal::at_most("wall-clock time, of the floor", NEW_RATIO, wall / floor, "x"),
            Goal::at_most("processor time", CPU_MS, cpu, "ms"),
            Goal::at_most("requests", REQUESTS, requests, ""),
        ],
        ONE_CLASS if own => {
            vec![Goal::at_most("wall-clock time, of the floor", ONE_CLASS_RATIO, wall / floor, "x")]
        }
        NOTHING if own => vec![Goal::at_most("wall-clock time", NOTHING_MS, wall, "ms")],
        _ => Vec::new(),
    };
    if variant == QUEUE && matches!(scenario, NEW | WAR | SMALL | LARGE) {
        goals.push(Goal::at_most("memory above idle", PEAK_MIB, peak, "MiB"));
    }
    Some(Row { section, name: variant.to_owned(), cells, goals })
}

/// Returns the floor of a scenario; that of the whole JAR where it has none of its own.
fn floor(samples: &[Sample], scenario: &str) -> f64 {
    let of_scenario = |scenario| median(of(samples, scenario, FLOOR).map(|sample| sample.wall_ms));
    let own = of_scenario(scenario);
    if own.is_nan() { of_scenario(NEW) } else { own }
}

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
        Sample {
            scenario,
            variant,
            round: 1,
            wall_ms,
            cpu_ms: 90.0,
            peak_bytes: Some(65 << 20),
            requests: Some(8),
            stages: vec![("fetch", 10.0), ("push", wall_ms - 30.0)],
            ..Sample::default()
        }
    }

    fn samples() -> Vec<Sample> {
        vec![
            sample(NEW, FLOOR, 200.0),
            sample(NEW, QUEUE, 250.0),
            sample(ONE_CLASS, QUEUE, 101.0),
            sample(NOTHING, LOCAL, 40.0),
            Sample { round: 0, sent_bytes: Some(46_200_000), ..sample(NEW, QUEUE, 9999.0) },
        ]
    }

    #[test]
    fn each_scenario_is_held_against_its_own_goals() {
        let rows = rows(&samples());
        let rows: Vec<&Row> =
            rows.iter().filter(|row| !row.section.starts_with("Stages")).collect();
        let verdicts: Vec<(&str, Vec<bool>)> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.goals.iter().map(|goal| goal.met).collect()))
            .collect();
        // A new one: wall, processor, requests, memory. One class: half of the floor of a new one.
        assert_eq!(
            verdicts,
            [
                (FLOOR, vec![]),
                (QUEUE, vec![true, true, true, false]),
                (QUEUE, vec![false]),
                (LOCAL, vec![true]),
            ]
        );
    }

    #[test]
    fn bytes_come_from_the_round_that_counts_and_times_from_the_others() {
        let rows = rows(&samples());
        let queue = rows.iter().find(|row| row.name == QUEUE).expect("it is there");
        let cell =
            |name| queue.cells.iter().find(|(column, _)| *column == name).map(|(_, v)| v.as_str());
        assert_eq!((cell("sent MB"), cell("median ms")), (Some("46.200"), Some("250")));
    }

    #[test]
    fn what_is_in_no_stage_is_the_queue() {
        let rows = rows(&samples());
        let stages = rows.iter().find(|row| row.section.starts_with("Stages")).expect("a row");
        let cells: Vec<(&str, &str)> =
            stages.cells.iter().map(|(column, value)| (*column, value.as_str())).collect();
        let expected = [("fetch", "10"), ("push", "220"), ("submit, queue, commit", "20")];
        assert_eq!(cells, expected);
    }

    #[test]
    fn nothing_is_drawn_of_a_part_of_the_benchmark() {
        assert!(drawing(&[sample(NEW, FLOOR, 200.0)], "today", "here").is_none());
        let svg = drawing(&samples(), "today", "here").expect("all three were measured");
        assert!(svg.contains("Jib CLI, exploded *") && svg.contains("250 ms"));
    }
}
