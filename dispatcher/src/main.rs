// SPDX-License-Identifier: Apache-2.0

//! Parses arguments, starts telemetry, runs the dispatcher and maps the outcome to an exit code.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use slipway_dispatcher::config::LogFormat;
use slipway_dispatcher::{Config, Dispatcher, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A submission makes some hundred small allocations, many of which another thread frees. The C
/// library's allocator took a quarter of the cost of accepting a batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Accepts artifacts and build requests over HTTP and publishes them to NATS JetStream.
#[derive(Parser)]
#[command(name = "slipway-dispatcher", version)]
struct Arguments {
    /// Configuration file (TOML); its keys are the flags' names with underscores.
    #[arg(long, env = "SLIPWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration, without secrets, and exit.
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(arguments.config.as_deref(), arguments.options) {
        Ok(config) => config,
        Err(error) => return fail(&error.into(), ExitCode::from(2)),
    };
    if arguments.check_config {
        let printed = std::io::stdout().write_all(config.redacted().as_bytes());
        return printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    start_telemetry(config.log_format);
    run(config).map_or_else(|error| fail(&error, ExitCode::FAILURE), |()| ExitCode::SUCCESS)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        stopping.cancel();
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        #[expect(clippy::exit, reason = "a second signal means: now")]
        std::process::exit(130);
    });
    let started = tokio::select! {
        started = Dispatcher::start(config) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    started.run(stop).await;
    Ok(())
}

fn start_telemetry(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SLIPWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

fn fail(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    let _unwritten = writeln!(std::io::stderr(), "slipway-dispatcher: {error:#}");
    code
}
