// SPDX-License-Identifier: Apache-2.0

//! The worker of the queue benchmark: the whole protocol, and image stages that do nothing. Not a
//! program to install.

use clap::Parser as _;
use slipway_loadtest::bench::queue::empty::{Options, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Options::parse()).await
}
