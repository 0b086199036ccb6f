// SPDX-License-Identifier: Apache-2.0

//! The program `slipway-dispatcher`: its settings, and what it serves.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use slipway_dispatcher::server::StartError;
use slipway_dispatcher::{Config, Dispatcher};
use slipway_service::Program;
use slipway_service::settings::{ConfigArgs, Mistakes};
use slipway_service::telemetry::TelemetryConfig;
use tokio_util::sync::CancellationToken;

/// A submission makes some hundred small allocations, many of which another thread frees. The C
/// library's allocator took a quarter of the cost of accepting a batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Accepts artifacts and build requests over HTTP and publishes them to NATS JetStream
#[derive(Debug, Parser, Serialize)]
#[command(name = "slipway-dispatcher", version = slipway_version::version!())]
struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    config_args: ConfigArgs,
    #[command(flatten)]
    #[serde(flatten)]
    config: Config,
    #[command(flatten)]
    #[serde(flatten)]
    telemetry: TelemetryConfig,
}

impl Program for Arguments {
    fn config_args(&self) -> &ConfigArgs {
        &self.config_args
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn essentials(&self) -> String {
        self.config.essentials()
    }

    fn check(&self, mistakes: &mut Mistakes) {
        self.config.check(mistakes);
    }
}

fn main() -> ExitCode {
    slipway_service::run(serve)
}

async fn serve(arguments: Arguments, stop: CancellationToken) -> Result<(), StartError> {
    let dispatcher = tokio::select! {
        started = Dispatcher::start(arguments.config) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    dispatcher.run(stop).await;
    Ok(())
}
