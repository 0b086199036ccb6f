// SPDX-License-Identifier: Apache-2.0

//! Breaks a whole Slipway under load, and exits with 0 only if every promise was kept.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use slipway_tests::chaos::{self, Options};

/// Runs Slipway under load while everything is killed, stopped, cut off and lied to, and checks the
/// result
#[derive(Parser)]
#[command(name = "slipway-chaos", version = slipway_version::version!())]
struct Arguments {
    /// How long the load lasts
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
    /// The seed of plan and load [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Version of nats-server, such as 2.15.1 [default: the one on the search path]
    #[arg(long)]
    server: Option<String>,
    /// How many NATS servers
    #[arg(long, default_value = "1", value_parser = ["1", "3"])]
    replicas: String,
    /// Switch off a protection by its name, to see the suite fail
    #[arg(long)]
    switch_off: Option<String>,
    /// Only faults whose text holds one of these words
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Cut the power of the NATS servers' machine instead of injecting many faults
    #[arg(long)]
    power_loss: bool,
    /// Keep history and logs in this directory
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Run the plans that once found something, each with its own seed and servers
    #[arg(long)]
    regressions: bool,
    /// Print the plan and exit
    #[arg(long)]
    plan: bool,
    /// Check a history that was kept, and exit
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let options = Options {
        seconds: arguments.seconds,
        seed: arguments.seed.unwrap_or_else(|| u64::from(std::process::id())),
        server: arguments.server,
        nodes: if arguments.replicas == "3" { 3 } else { 1 },
        switch_off: arguments.switch_off,
        faults: arguments.faults,
        keep: arguments.keep,
    };
    if arguments.plan {
        options.plan().faults.iter().for_each(|fault| println!("{fault}"));
        return Ok(ExitCode::SUCCESS);
    }
    let reports = match &arguments.check {
        Some(history) => vec![chaos::check(history)?],
        None if arguments.power_loss => vec![chaos::power::run(&options).await?],
        None if arguments.regressions => chaos::run_regressions(&options).await?,
        None => vec![chaos::run(&options).await?],
    };
    reports.iter().for_each(|report| println!("{report}"));
    let kept = reports.iter().all(|report| report.violations.is_empty());
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
