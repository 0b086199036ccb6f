// SPDX-License-Identifier: Apache-2.0

//! The product's protocols (`slipway_queue::protocol`: accept, claim, commit, tags, cancel, replay,
//! reconciler), one durable operation at a time, with commands drawn from a seed between any two
//! operations and a crash anywhere.
//!
//! On a server in memory thousands of runs find what no suite of real processes meets by chance;
//! that the server in memory does what a real one does is shown by running the same commands on
//! both. Rules of the protocols are switched off in turn, in the product's code, and the search must
//! find what each is there for. `docs/protocol.md` lists those that were broken by hand.

mod actors;
mod commands;
mod gate;
mod history;
mod invariants;
mod memory;
mod real;
mod scene;
mod server;
mod world;

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use slipway_queue::failpoint::without;
use slipway_tests::chaos::random::Random;
use slipway_tests::nats::{Nats, NatsOptions, nats_program};

use commands::{Command, draw};
use invariants::Findings;
use memory::Memory;
use real::Both;
use scene::{Faults, Scene};

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
fn run(commands: &[Command], faults: Faults) -> Findings {
    let run = async {
        let mut scene = Scene::new(Memory::new(faults.capacity()), faults);
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
fn shrink(mut commands: Vec<Command>, faults: Faults) -> Vec<Command> {
    let mut part = commands.len() / 2;
    while part > 0 {
        let mut start = 0;
        while start < commands.len() {
            let mut fewer = commands.clone();
            fewer.drain(start..(start + part).min(commands.len()));
            if run(&fewer, faults).broken.is_empty() {
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
fn describe(seed: u64, faults: Faults) -> String {
    let commands = shrink(commands_of(seed), faults);
    let mut text = format!("seed {seed} breaks a promise:");
    for what in run(&commands, faults).broken {
        text += &format!("\n  {what}");
    }
    text += "\nafter";
    for command in commands {
        text += &format!("\n  {command:?}");
    }
    text
}

/// Searches for a run that breaks a promise, and returns its seed.
fn search(faults: Faults) -> Option<u64> {
    (0..BUDGET).find(|seed| !run(&commands_of(*seed), faults).broken.is_empty())
}

#[test]
fn no_run_breaks_a_promise() {
    let faults = Faults::promised();
    let begun = Instant::now();
    let (mut runs, mut left_tags, mut late_events, mut finished) = (0, 0, 0, 0);
    while begun.elapsed() < SEARCH || runs < MIN_RUNS {
        let findings = run(&commands_of(runs), faults);
        assert!(findings.broken.is_empty(), "{}", describe(runs, faults));
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
    let faults = Faults::promised();
    let capacity = faults.capacity();
    let both = Both::open(url, &format!("model-{seed}"), capacity).await;
    let mut scene = Scene::new(both, faults);
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

/// Requires that something is needed: without it a run breaks a promise.
fn is_needed(what: &str, faults: Faults) {
    let seed = search(faults);
    let seed = seed.unwrap_or_else(|| panic!("{BUDGET} runs without {what} break no promise"));
    println!("without {what}, {}", describe(seed, faults));
}

/// Requires the same of a protection of the product, which is switched off for this thread.
fn protection_is_needed(protection: &'static str) {
    without(protection, || is_needed(protection, Faults::promised()));
}

#[test]
fn it_notices_that_records_are_written_over_others() {
    protection_is_needed("epoch-fencing");
}

#[test]
fn it_notices_that_tags_have_no_owners() {
    protection_is_needed("tag-fencing");
}

#[test]
fn it_notices_that_nobody_looks_at_a_tag_again() {
    protection_is_needed("second-look");
}

#[test]
fn it_notices_that_nobody_queues_what_a_crash_left_half_accepted() {
    protection_is_needed("accept-reconciler");
}

#[test]
fn it_notices_that_nobody_reconciles() {
    is_needed("a reconciler", Faults { reconciles: false, ..Faults::promised() });
}

/// The one case of the tags that is not promised.
#[test]
fn a_tag_can_stay_wrong_when_a_worker_wrote_it_in_its_sleep_and_died() {
    is_needed("that luck", Faults { sleepers_die: true, ..Faults::promised() });
}
