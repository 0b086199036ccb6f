// SPDX-License-Identifier: Apache-2.0

use super::*;

const ONE: Shape = Shape { nodes: 1 };
const THREE: Shape = Shape { nodes: 3 };

#[test]
fn the_same_seed_and_length_give_the_same_plan() {
    for shape in [ONE, THREE] {
        assert_eq!(Plan::draw(1, 300, shape), Plan::draw(1, 300, shape));
        assert_ne!(Plan::draw(1, 300, shape), Plan::draw(2, 300, shape));
    }
}

#[test]
fn the_plan_of_a_seed_never_changes() {
    let plan = Plan::draw(7, 30, ONE);
    let lines: Vec<String> = plan.faults.iter().map(ToString::to_string).collect();
    let golden = [
        "   2.3 s  disk of NATS full for 3.9 s",
        "   2.5 s  registry: forbidden in 28 % for 4.8 s",
        "   6.7 s  stop worker-3 for 4.5 s",
        "   7.8 s  reset connections of worker-2 for 0.1 s",
        "   8.1 s  registry: slow in 56 % for 6.7 s",
        "  11.8 s  stop dispatcher-1 for 3.3 s",
        "  15.4 s  registry: lose_answer in 27 % for 7.1 s",
        "  15.6 s  kill worker-1 for 0.5 s",
    ];
    assert_eq!(lines, golden);
}

#[test]
fn two_minutes_hold_every_kind_of_fault() {
    for seed in 0..100 {
        for shape in [ONE, THREE] {
            let plan = Plan::draw(seed, COMPLETE_FROM_S, shape);
            assert_eq!(plan.missing(shape), [], "seed {seed}, {shape:?}");
        }
    }
}

#[test]
fn two_faults_at_most_overlap_with_different_subjects_and_all_is_healed_at_the_end() {
    for seed in 0..50 {
        let plan = Plan::draw(seed, 240, THREE);
        for planned in &plan.faults {
            let at = planned.at_ms;
            let begun =
                |other: &&Planned| other.at_ms <= at && at < other.at_ms + other.duration_ms;
            let now: Vec<Subject> =
                plan.faults.iter().filter(begun).map(|other| other.fault.subject()).collect();
            assert!(now.len() <= 2, "seed {seed}: {planned}");
            assert!(now.len() < 2 || now[0] != now[1], "seed {seed}: {planned}");
            assert!(at + planned.duration_ms <= 237_000, "seed {seed}: {planned}");
        }
    }
}

#[test]
fn a_quarter_of_the_time_nothing_is_broken() {
    let (mut quiet, mut all) = (0u64, 0u64);
    for seed in 0..20 {
        let plan = Plan::draw(seed, 600, ONE);
        for at in (0..600_000).step_by(100) {
            let broken =
                |planned: &Planned| planned.at_ms <= at && at < planned.at_ms + planned.duration_ms;
            quiet += u64::from(!plan.faults.iter().any(broken));
            all += 1;
        }
    }
    let percent = 100 * quiet / all;
    assert!((18..=35).contains(&percent), "{percent} %");
}
