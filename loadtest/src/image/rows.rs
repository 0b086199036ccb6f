// SPDX-License-Identifier: Apache-2.0

//! The rows of image samples, compared with the goals.

use super::elsewhere::{COLD, WARM};
use super::inputs::{LARGE, SMALL, WAR};
use super::jar::{NEW, NOTHING, ONE_CLASS};
use super::variants::{BUILDAH, FLOOR, LOCAL, POST, QUEUE, UMOCI, UPLOAD};
use crate::goals;
use crate::row::{Goal, Row, number};
use crate::samples::{Sample, float, median, minimum, of};

const VARIANTS: [&str; 7] = [FLOOR, POST, UPLOAD, QUEUE, LOCAL, UMOCI, BUILDAH];

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
        // Steps before the clock starts are shown once.
        let shown = |variant: &&str| scenario == NEW || !matches!(*variant, POST | UPLOAD);
        for variant in VARIANTS.into_iter().filter(shown) {
            rows.extend(row(samples, section, scenario, variant));
            if (scenario, variant) == (NEW, QUEUE) {
                rows.extend(with_upload(samples, section));
            }
        }
    }
    rows.extend(requests(samples));
    rows.extend(sections.into_iter().filter_map(|(section, scenario)| {
        stages(samples, scenario).map(|row| Row { name: section.to_owned(), ..row })
    }));
    rows
}

/// Returns how the time of builds through the queue is spent.
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

/// Returns the row of new builds together with the upload that each began with.
fn with_upload(samples: &[Sample], section: &'static str) -> Option<Row> {
    let times = of(samples, NEW, QUEUE).filter_map(|build| {
        let upload = of(samples, NEW, UPLOAD).find(|upload| upload.round == build.round)?;
        Some(upload.wall_ms + build.wall_ms)
    });
    let wall = median(times.clone());
    if wall.is_nan() {
        return None;
    }
    let ratio = wall / floor(samples, NEW).wall_ms;
    let cells = vec![
        ("median ms", number(wall)),
        ("min ms", number(minimum(times.clone()))),
        ("of the floor", shown(ratio)),
        ("rounds", times.count().to_string()),
    ];
    let goals = vec![Goal::at_most("wall-clock time of the floor", goals::WITH_UPLOAD, ratio, "x")];
    Some(Row { section, name: "Slipway, queue, with the upload".to_owned(), cells, goals })
}

/// Returns the requests of a new build by their names.
fn requests(samples: &[Sample]) -> Vec<Row> {
    let seen: Vec<&Sample> = of(samples, NEW, QUEUE).collect();
    let Some(first) = seen.first() else { return Vec::new() };
    let rows = first.named.iter().enumerate().map(|(place, named)| {
        let counts = seen.iter().filter_map(|sample| sample.named.get(place));
        let counts = counts.map(|named| float(u64::try_from(named.seen).unwrap_or(u64::MAX)));
        Row {
            section: "Requests of a new JAR, through the queue",
            name: named.name.to_owned(),
            cells: vec![
                ("median", number(median(counts))),
                ("the protocol asks for", named.asked.to_string()),
            ],
            goals: Vec::new(),
        }
    });
    rows.collect()
}

/// The medians for goals and cells.
struct Medians {
    wall_ms: f64,
    cpu_ms: f64,
    requests: f64,
    /// How many of them the protocol asks for.
    asked: f64,
    /// The most of all rounds, in MiB.
    peak_mib: f64,
}

impl Medians {
    fn of(seen: &[&Sample]) -> Self {
        let count = |count: usize| float(u64::try_from(count).unwrap_or(u64::MAX));
        let peak = seen.iter().filter_map(|sample| sample.peak_bytes).max();
        let asked = seen.iter().filter(|sample| !sample.named.is_empty());
        Self {
            wall_ms: median(seen.iter().map(|sample| sample.wall_ms)),
            cpu_ms: median(seen.iter().map(|sample| sample.cpu_ms)),
            requests: median(seen.iter().filter_map(|sample| sample.requests).map(count)),
            asked: median(
                asked.map(|sample| count(sample.named.iter().map(|named| named.asked).sum())),
            ),
            peak_mib: peak.map_or(f64::NAN, |bytes| float(bytes) / f64::from(1 << 20)),
        }
    }
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
    let medians = Medians::of(&seen);
    let floor = floor(samples, scenario);
    let sent = samples.iter().find_map(|sample| {
        let counted = sample.scenario == scenario && sample.variant == variant;
        sample.sent_bytes.filter(|_| counted)
    });
    let busy = seen.iter().filter(|sample| sample.busy).count();
    let cells = vec![
        ("median ms", number(medians.wall_ms)),
        ("min ms", number(minimum(seen.iter().map(|sample| sample.wall_ms)))),
        ("of the floor", shown(medians.wall_ms / floor.wall_ms)),
        ("CPU ms", number(medians.cpu_ms)),
        ("CPU of the floor", shown(medians.cpu_ms / floor.cpu_ms)),
        ("peak MiB", shown(medians.peak_mib)),
        ("requests", shown(medians.requests)),
        ("sent MB", sent.map_or_else(String::new, |bytes| format!("{:.3}", float(bytes) / 1e6))),
        ("rounds", seen.len().to_string()),
        ("of them busy", if busy == 0 { String::new() } else { busy.to_string() }),
    ];
    let goals = if variant == QUEUE { goals(scenario, &medians, &floor) } else { Vec::new() };
    Some(Row { section, name: variant.to_owned(), cells, goals })
}

/// Compares a scenario through the queue with its goals.
fn goals(scenario: &str, seen: &Medians, floor: &Medians) -> Vec<Goal> {
    let ratio = seen.wall_ms / floor.wall_ms;
    let wall = |bound| Goal::at_most("wall-clock time of the floor", bound, ratio, "x");
    let memory = Goal::at_most("memory above idle", goals::SLOT_MIB, seen.peak_mib, "MiB");
    match scenario {
        NEW => vec![
            wall(goals::NEW),
            Goal::at_most(
                "processor time of the floor's",
                goals::NEW_CPU,
                seen.cpu_ms / floor.cpu_ms,
                "x",
            ),
            Goal::at_most("requests, as the protocol asks", seen.asked, seen.requests, ""),
            memory,
        ],
        ONE_CLASS => vec![wall(goals::ONE_CLASS), memory],
        NOTHING => vec![wall(goals::NOTHING), memory],
        WAR | SMALL | LARGE => vec![memory],
        _ => Vec::new(),
    }
}

fn shown(value: f64) -> String {
    if value.is_nan() { String::new() } else { number(value) }
}

/// Returns the floor of a scenario, or that of the whole JAR if it has none of its own.
fn floor(samples: &[Sample], scenario: &str) -> Medians {
    let own: Vec<&Sample> = of(samples, scenario, FLOOR).collect();
    let whole: Vec<&Sample> = of(samples, NEW, FLOOR).collect();
    Medians::of(if own.is_empty() { &whole } else { &own })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::NamedRequests;

    fn sample(scenario: &'static str, variant: &'static str, wall_ms: f64) -> Sample {
        let named = |name, seen, asked| NamedRequests { name, seen, asked };
        Sample {
            scenario,
            variant,
            round: 1,
            wall_ms,
            cpu_ms: 90.0,
            peak_bytes: Some(33 << 20),
            requests: Some(8),
            named: vec![named("tags", 1, 1), named("others", 1, 0)],
            stages: vec![("fetch", 10.0), ("push", wall_ms - 30.0)],
            ..Sample::default()
        }
    }

    fn samples() -> Vec<Sample> {
        vec![
            Sample { cpu_ms: 22.0, ..sample(NEW, FLOOR, 200.0) },
            sample(NEW, UPLOAD, 81.0),
            sample(NEW, QUEUE, 240.0),
            sample(ONE_CLASS, QUEUE, 61.0),
            sample(NOTHING, LOCAL, 10.0),
            Sample { peak_bytes: Some(32 << 20), ..sample(NOTHING, QUEUE, 16.0) },
            Sample { round: 0, sent_bytes: Some(46_200_000), ..sample(NEW, QUEUE, 9999.0) },
        ]
    }

    #[test]
    fn each_scenario_is_held_against_its_own_goals() {
        let rows = rows(&samples());
        let of_scenarios = rows.iter().filter(|row| row.section.starts_with("JAR"));
        let verdicts: Vec<(&str, Vec<bool>)> = of_scenarios
            .map(|row| (row.name.as_str(), row.goals.iter().map(|goal| goal.met).collect()))
            .collect();
        assert_eq!(
            verdicts,
            [
                (FLOOR, vec![]),
                (UPLOAD, vec![]),
                // Time, processor time, requests, memory.
                (QUEUE, vec![true, false, false, false]),
                ("Slipway, queue, with the upload", vec![false]),
                // Time of the whole JAR's floor, memory.
                (QUEUE, vec![false, false]),
                (QUEUE, vec![true, true]),
                (LOCAL, vec![]),
            ]
        );
    }

    #[test]
    fn requests_are_listed_by_their_names() {
        let rows = rows(&samples());
        let named = rows.iter().filter(|row| row.section.starts_with("Requests"));
        let lines: Vec<(&str, &str, &str)> = named
            .map(|row| (row.name.as_str(), row.cells[0].1.as_str(), row.cells[1].1.as_str()))
            .collect();
        assert_eq!(lines, [("tags", "1", "1"), ("others", "1", "0")]);
    }

    #[test]
    fn bytes_come_from_the_round_that_counts_and_times_from_the_others() {
        let rows = rows(&samples());
        let queue = rows.iter().find(|row| row.name == QUEUE).expect("it is there");
        let cell =
            |name| queue.cells.iter().find(|(column, _)| *column == name).map(|(_, v)| v.as_str());
        assert_eq!((cell("sent MB"), cell("median ms")), (Some("46.200"), Some("240")));
    }

    #[test]
    fn what_is_in_no_stage_is_the_queue() {
        let rows = rows(&samples());
        let stages = rows.iter().find(|row| row.section.starts_with("Stages")).expect("a row");
        let cells: Vec<(&str, &str)> =
            stages.cells.iter().map(|(column, value)| (*column, value.as_str())).collect();
        let expected = [("fetch", "10"), ("push", "210"), ("submit, queue, commit", "20")];
        assert_eq!(cells, expected);
    }
}
