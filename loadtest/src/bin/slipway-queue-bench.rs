// SPDX-License-Identifier: Apache-2.0

//! The queue benchmark alone: `--quick` for a short run. Exit code 1 if a goal was missed.

use std::process::ExitCode;

use clap::Parser;
use slipway_loadtest::bench::queue::{QueueOptions, run};

/// Measures how fast builds go through the queue
#[derive(Parser)]
#[command(name = "slipway-queue-bench", version)]
struct Arguments {
    /// Measure little, to see whether it works
    #[arg(long)]
    quick: bool,
    /// Measure one group only: submit, latency, drain, wake, fanout or stops
    #[arg(long, value_name = "GROUP")]
    only: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let standard = if arguments.quick { QueueOptions::quick()? } else { QueueOptions::standard()? };
    let options = QueueOptions { only: arguments.only, ..standard };
    let mut all_met = true;
    for row in run(&options).await? {
        println!("{}: {}", row.section, row.name);
        for (what, value) in &row.cells {
            println!("    {what:<24} {value}");
        }
        for goal in &row.goals {
            let met = if goal.met { "met" } else { "MISSED" };
            println!("    goal {}: {} wanted, {} seen: {met}", goal.what, goal.wanted, goal.seen);
            all_met &= goal.met;
        }
    }
    Ok(if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
