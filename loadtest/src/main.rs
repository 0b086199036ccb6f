// SPDX-License-Identifier: Apache-2.0

//! The binary `slipway-loadtest`: JSON on stdout, a line for people on stderr, exit code 1 if any
//! build did not succeed.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use slipway_loadtest::{Options, run};

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let report = runtime.block_on(run(&options))?;
    println!("{}", serde_json::to_string(&report)?);
    eprintln!("{}", report.line());
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
