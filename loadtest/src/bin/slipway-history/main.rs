// SPDX-License-Identifier: Apache-2.0

//! The binary `slipway-history`: fills a nats-server with the events of very many builds and
//! measures a dispatcher on them: how fast it folds them from nothing, how soon it is ready when it
//! has folded them before, how long lists take, how fast an event reaches a thousand subscribers,
//! and whether it keeps up with events at a steady rate. It prints JSON on stdout.

mod ask;
mod events;
mod fanout;
mod fill;
mod http;
mod quantiles;
mod sustained;
mod system;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use slipway_loadtest::machine::settle;

/// How long to wait for an idle machine before measuring.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// Measures history and events.
#[derive(Debug, Clone, Parser)]
#[command(name = "slipway-history", version = slipway_version::version!())]
struct Options {
    /// How many builds the history has
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    builds: u64,
    /// Directory of all data; events that it holds already are used again
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// The NATS server
    #[arg(long, value_name = "PROGRAM", default_value = "nats-server")]
    nats_server: PathBuf,
    /// The dispatcher (default: in this program's directory)
    #[arg(long, value_name = "PROGRAM")]
    dispatcher: Option<PathBuf>,
    /// How many times each request is sent
    #[arg(long, default_value_t = 200)]
    asks: u32,
    /// How many clients follow events in the last part; 0 leaves it out
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// How many events they are sent
    #[arg(long, default_value_t = 300)]
    told: u32,
    /// For how many seconds events are published at a steady rate; 0 leaves that part out
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    sustained: u32,
    /// How many of them a second
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// How many clients follow them, each one of the twenty projects
    #[arg(long, default_value_t = 40)]
    followers: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // One thread, because the measured programs share the machine with this one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let report = runtime.block_on(measure(&options))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<serde_json::Value> {
    let (temporary, directory) = match &options.directory {
        Some(directory) => (None, directory.clone()),
        None => {
            let temporary = tempfile::tempdir().context("failed to make a directory")?;
            let path = temporary.path().to_owned();
            (Some(temporary), path)
        }
    };
    let mut system = system::System::start(options, &directory).await?;
    let filled = fill::fill(&mut system, options.builds).await?;
    // A real history is not seconds old, so pending writes of the filling are not part of a
    // rebuild.
    settle(SETTLES_WITHIN).await;
    let rebuilt = system.rebuild().await?;
    let restarted = system.restart().await?;
    let asked = ask::all(&system, options.asks).await?;
    let told = fanout::measure(&system, options.subscribers, options.told).await?;
    let sustained = sustained::measure(&system, options).await?;
    drop(temporary);
    Ok(serde_json::json!({
        "fill": filled, "rebuild": rebuilt, "restart": restarted, "ask": asked, "fanout": told,
        "sustained": sustained,
    }))
}
