// SPDX-License-Identifier: Apache-2.0

//! The chaos suite: a whole Slipway under load, broken by a plan drawn from a seed, and a checker
//! that reads what was observed.
//!
//! Load, faults and checker know nothing of each other: load and injector only write the
//! [`history`], and the [`checker`] only reads it. Everything random comes from the seed, so a plan
//! that found something finds it again, as far as the machine's timing allows.

pub mod checker;
mod collect;
mod faults;
pub mod history;
pub mod load;
pub mod observer;
pub mod plan;
pub mod power;
pub mod random;
pub mod report;
pub mod scenario;
mod usage;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use history::{History, What};
use observer::{Follower, Source};
use plan::{Plan, Shape};
use report::Report;
use world::{World, WorldOptions};

/// The load ends this long before the plan.
const LOAD_ENDS_BEFORE: Duration = Duration::from_secs(2);

/// The name of the history's file.
pub const HISTORY: &str = "history.jsonl";

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the load lasts.
    pub seconds: u64,
    /// The seed.
    pub seed: u64,
    /// The version of the NATS servers; Debian's if there is none.
    pub server: Option<String>,
    /// How many NATS servers: 1 or 3.
    pub nodes: usize,
    /// The protection to switch off, to see the suite fail.
    pub switch_off: Option<String>,
    /// Only faults whose text holds one of these words; all if there are no words.
    pub faults: Vec<String>,
    /// Where everything is kept. Without it, everything is removed if nothing was found.
    pub keep: Option<PathBuf>,
}

/// A run that found something.
#[derive(Debug, Clone, Copy)]
pub struct Regression {
    /// Its seed.
    pub seed: u64,
    /// Its length.
    pub seconds: u64,
    /// The version of the NATS servers; Debian's if there is none.
    pub server: Option<&'static str>,
    /// The number of NATS servers.
    pub nodes: usize,
    /// What it found.
    pub found: &'static str,
}

/// Runs that once found something. A finding that can be provoked also has a test of its own.
pub const REGRESSIONS: [Regression; 1] = [Regression {
    seed: 61,
    seconds: 100,
    server: Some("2.15.1"),
    nodes: 3,
    found: "the archive of a log ended where a lagging replica ended",
}];

impl Options {
    /// Returns the options of a run that once found something.
    #[must_use]
    pub fn of(self, regression: Regression) -> Self {
        let Regression { seed, seconds, server, nodes, .. } = regression;
        Self { seed, seconds, server: server.map(str::to_owned), nodes, ..self }
    }

    /// Returns the plan of this run.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::draw(self.seed, self.seconds, Shape { nodes: self.nodes });
        plan.keep(&self.faults);
        plan
    }
}

/// Runs the suite: load and faults, then rest, then the check.
///
/// # Errors
///
/// When the system does not answer at the end, although everything is healed.
///
/// # Panics
///
/// When the world cannot be started or healed.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let directory = world::make_directory(options.keep.as_deref());
    println!(
        "chaos: seed {}, {} s, everything in {}",
        options.seed,
        options.seconds,
        directory.display()
    );
    let report = watch(options, &directory).await?;
    finish(&report, &directory, options.keep.is_some());
    Ok(report)
}

/// Runs the plans that once found something.
///
/// # Errors
///
/// When a system does not answer at its end.
pub async fn run_regressions(options: &Options) -> anyhow::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for regression in REGRESSIONS {
        println!("found once: {}", regression.found);
        reports.push(run(&options.clone().of(regression)).await?);
    }
    Ok(reports)
}

/// Removes files that nobody needs.
fn finish(report: &Report, directory: &Path, keep: bool) {
    if keep || !report.violations.is_empty() {
        println!("history and logs are in {}", directory.display());
    } else if let Err(error) = std::fs::remove_dir_all(directory) {
        println!("{} cannot be removed: {error}", directory.display());
    }
}

async fn watch(options: &Options, directory: &Path) -> anyhow::Result<Report> {
    let path = directory.join(HISTORY);
    let history = History::create(&path);
    let world = World::start(&WorldOptions {
        directory: directory.to_owned(),
        server: options.server.clone(),
        nodes: options.nodes,
        stores: None,
        switch_off: options.switch_off.clone(),
        workers: plan::WORKERS,
        seed: options.seed,
    })
    .await;
    let world = Arc::new(world);
    begin(&history, &world, options).await?;
    let logs = Follower::start(Source::Logs, &world.nats_url, &history);
    let records = Follower::start(Source::Records, &world.nats_url, &history);
    let sampler = tokio::spawn(usage::sample(history.clone()));
    let supervisor = tokio::spawn(Arc::clone(&world).supervise(history.clone()));
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds) - LOAD_ENDS_BEFORE;
    let faults = faults::carry_out(Arc::clone(&world), history.clone(), options.plan(), start);
    let faults = tokio::spawn(faults);
    load::run(Arc::clone(&world), history.clone(), options.seed, end).await;
    faults.await?;
    world.heal().await;
    history.note(What::Healed);
    collect::rest(&world, &history, collect::RUN_STALL_LIMIT).await;
    records.finish().await?;
    logs.finish().await?;
    sampler.abort();
    collect::collect(&world, &history).await?;
    supervisor.abort();
    let _aborted = supervisor.await;
    drop(world);
    check(&path)
}

async fn begin(history: &History, world: &World, options: &Options) -> anyhow::Result<()> {
    let server = observer::server_version(&world.nats_url).await?;
    println!("nats-server {server}, {} of them", options.nodes);
    let Options { seed, seconds, nodes, .. } = *options;
    history.note(What::Began { seed, seconds, server, nodes });
    Ok(())
}

/// Checks a history.
///
/// # Errors
///
/// When the file is not a history.
pub fn check(path: &Path) -> anyhow::Result<Report> {
    let entries = history::read(path)?;
    let violations = checker::check(&entries);
    Ok(Report::of(&entries, violations))
}
