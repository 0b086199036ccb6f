// SPDX-License-Identifier: Apache-2.0

//! The protocols as a model: accept, attempt, cancel, replay and reconciler, step by step, with
//! commands drawn from a seed between any two steps and a crash anywhere.
//!
//! On a server in memory thousands of runs find what no suite of real processes meets by chance;
//! that the server in memory does what a real one does is shown by running the same commands on
//! both. Each rule of the protocols is switched off in turn, and the search must find what it is
//! there for.

mod actors;
mod commands;
mod invariants;
mod real;
mod scene;
mod world;

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use slipway_tests::chaos::random::Random;
use slipway_tests::nats::{Nats, NatsOptions, nats_program};

use commands::{Command, draw};
use invariants::Findings;
use real::{Both, Real};
use scene::{Faults, Rules, Scene};
use world::Model;

/// How long the search on the model goes on.
const SEARCH: Duration = Duration::from_secs(5);
/// How many runs it comes to at the least, on a machine that does other things too.
const MIN_RUNS: u64 = 2_000;
/// How many runs may be needed to find a rule missing.
const BUDGET: u64 = 60_000;
/// How many runs are compared with a real server, and their length.
const COMPARED: u64 = 50;
const COMPARED_LENGTH: usize = 60;

/// Runs commands on the model to their end.
fn run(commands: &[Command], rules: Rules, faults: Faults) -> Findings {
    let run = async {
        let mut scene = Scene::new(Model::new(faults.capacity()), rules, faults);
        for command in commands {
            scene.run(*command).await;
        }
        scene.heal().await;
        scene.check().await
    };
    run.now_or_never().expect("the model never waits")
}

/// The commands of a run, of one of several lengths.
fn commands_of(seed: u64) -> Vec<Command> {
    let length = Random::of_part(seed, 1).between(30, 120);
    draw(seed, usize::try_from(length).expect("a small number"))
}

/// Leaves out what is not needed to break the same promise or another.
fn shrink(mut commands: Vec<Command>, rules: Rules, faults: Faults) -> Vec<Command> {
    let mut part = commands.len() / 2;
    while part > 0 {
        let mut start = 0;
        while start < commands.len() {
            let mut fewer = commands.clone();
            fewer.drain(start..(start + part).min(commands.len()));
            if run(&fewer, rules, faults).broken.is_empty() {
                start += part;
            } else {
                commands = fewer;
            }
        }
        part /= 2;
    }
    commands
}

/// Says what breaks a promise, in its shortest form.
fn describe(seed: u64, rules: Rules, faults: Faults) -> String {
    let commands = shrink(commands_of(seed), rules, faults);
    let mut text = format!("seed {seed} breaks a promise:");
    for what in run(&commands, rules, faults).broken {
        text += &format!("\n  {what}");
    }
    text += "\nafter";
    for command in commands {
        text += &format!("\n  {command:?}");
    }
    text
}

/// Searches for a run that breaks a promise, and returns its seed.
fn search(rules: Rules, faults: Faults) -> Option<u64> {
    (0..BUDGET).find(|seed| !run(&commands_of(*seed), rules, faults).broken.is_empty())
}

#[test]
fn no_run_breaks_a_promise() {
    let (rules, faults) = (Rules::all(), Faults::promised());
    let begun = Instant::now();
    let (mut runs, mut left_tags, mut late_events, mut finished) = (0, 0, 0, 0);
    while begun.elapsed() < SEARCH || runs < MIN_RUNS {
        let findings = run(&commands_of(runs), rules, faults);
        assert!(findings.broken.is_empty(), "{}", describe(runs, rules, faults));
        runs += 1;
        left_tags += findings.left_tags;
        late_events += findings.late_events;
        finished += findings.finished;
    }
    println!(
        "{runs} runs, {:.0} a second: {finished} builds finished, {left_tags} tags left by a build \
         that did not succeed, {late_events} events of attempts that were overtaken",
        f64::from(u32::try_from(runs).expect("not so many")) / begun.elapsed().as_secs_f64(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_in_memory_does_what_a_real_one_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let version = std::env::var("SLIPWAY_TEST_NATS_VERSION").ok();
    let nats = Nats::start(NatsOptions {
        program: nats_program(version.as_deref()),
        replicas: 1,
        sync_always: false,
        stores: vec![directory.path().join("store")],
        logs: directory.path().to_owned(),
    });
    let nats = nats.await;
    for seed in 0..COMPARED {
        Box::pin(compare(&nats.url(), seed)).await;
    }
}

/// Runs the same commands on both, each operation of which is compared.
async fn compare(url: &str, seed: u64) {
    let (rules, faults) = (Rules::all(), Faults::promised());
    let capacity = faults.capacity();
    let real = Real::open(url, &format!("model-{seed}"), &scene::project(), capacity).await;
    let mut scene = Scene::new(Both::new(Model::new(capacity), real), rules, faults);
    // Shown only if they differ.
    println!("seed {seed}");
    for command in draw(seed, COMPARED_LENGTH) {
        // Two minutes are too long for a test.
        if command != Command::WindowPasses {
            Box::pin(scene.run(command)).await;
        }
    }
    scene.compare_everything().await;
}

/// Requires that a rule is needed: without it a run breaks a promise.
fn is_needed(what: &str, rules: Rules, faults: Faults) {
    let seed = search(rules, faults);
    let seed = seed.unwrap_or_else(|| panic!("{BUDGET} runs without {what} break no promise"));
    println!("without {what}, {}", describe(seed, rules, faults));
}

#[test]
fn it_notices_that_records_are_written_whatever_stands_there() {
    is_needed("the fence", Rules { epoch_fence: false, ..Rules::all() }, Faults::promised());
}

#[test]
fn it_notices_that_nobody_reconciles() {
    is_needed("a reconciler", Rules { reconciler: false, ..Rules::all() }, Faults::promised());
}

#[test]
fn it_notices_that_tags_have_no_owners() {
    is_needed("owners", Rules { tag_claim: false, ..Rules::all() }, Faults::promised());
}

#[test]
fn it_notices_that_nobody_looks_at_a_tag_again() {
    is_needed("a second look", Rules { second_look: false, ..Rules::all() }, Faults::promised());
}

#[test]
fn it_notices_that_an_interrupted_attempt_does_not_look_again() {
    let rules = Rules { look_after_end: false, ..Rules::all() };
    is_needed("a look after the end", rules, Faults::promised());
}

#[test]
fn it_notices_that_nobody_looks_at_the_tags_of_a_build_that_does_not_succeed() {
    let rules = Rules { look_before_end: false, ..Rules::all() };
    is_needed("a look before the end", rules, Faults::promised());
}

#[test]
fn it_notices_that_only_the_first_delivery_is_announced() {
    let rules = Rules { queued_from_record: false, ..Rules::all() };
    is_needed("build.queued from the record", rules, Faults::promised());
}

#[test]
fn it_notices_that_letters_of_replayed_builds_stay() {
    let rules = Rules { letters_swept: false, ..Rules::all() };
    is_needed("a sweep of letters", rules, Faults::promised());
}

/// The reconciler makes this good too, so it must be away, and with it all that needs it.
#[test]
fn it_notices_that_requests_are_acknowledged_before_the_record_is_written() {
    let faults = Faults {
        dispatchers_crash: false,
        replays: false,
        queue_fills: false,
        sleepers_die: false,
    };
    let rules = Rules { reconciler: false, ..Rules::all() };
    for seed in 0..MIN_RUNS {
        let broken = run(&commands_of(seed), rules, faults).broken;
        assert!(broken.is_empty(), "without that too, seed {seed}: {broken:#?}");
    }
    is_needed("the order", Rules { record_before_ack: false, ..rules }, faults);
}

/// The one case of the tags that is not promised.
#[test]
fn a_tag_can_stay_wrong_when_a_worker_wrote_it_in_its_sleep_and_died() {
    let faults = Faults { sleepers_die: true, ..Faults::promised() };
    is_needed("that luck", Rules::all(), faults);
}
