// SPDX-License-Identifier: Apache-2.0

//! The worker process: parses its arguments, starts logging, runs until SIGTERM.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use slipway_worker::{Options, Worker};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Takes builds from the queue, assembles their images and pushes them
#[derive(Parser)]
#[command(name = "slipway-worker", version)]
struct Arguments {
    /// TOML file with the settings below, by their names with underscores
    #[arg(long, env = "SLIPWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Print the resulting configuration, secrets redacted, and exit
    #[arg(long)]
    check_config: bool,
    /// Write the log as JSON
    #[arg(long, env = "SLIPWAY_LOG_JSON")]
    log_json: bool,
    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("SLIPWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.init();
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = match &arguments.config {
        Some(path) => Options::read(path)?,
        None => Options::default(),
    };
    let config = arguments.options.resolve(file)?;
    if arguments.check_config {
        println!("{}", config.describe());
        return Ok(());
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stopping = stop.clone();
    let signals = tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping; a second signal stops at once");
        stopping.cancel();
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    });
    let worker = tokio::select! {
        started = Worker::start(config) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    tokio::select! {
        () = worker.run(stop) => Ok(()),
        _ = signals => anyhow::bail!("stopped at once by a second signal"),
    }
}
