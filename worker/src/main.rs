// SPDX-License-Identifier: Apache-2.0

//! The program `slipway-worker`: its settings, and what it serves.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use slipway_service::Program;
use slipway_service::settings::{ConfigArgs, Mistakes};
use slipway_service::telemetry::TelemetryConfig;
use slipway_worker::{Config, Worker, WorkerError};
use tokio_util::sync::CancellationToken;

/// Takes builds from the queue, assembles their images and pushes them
#[derive(Debug, Parser, Serialize)]
#[command(name = "slipway-worker", version = slipway_version::version!())]
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

async fn serve(arguments: Arguments, stop: CancellationToken) -> Result<(), WorkerError> {
    let worker = tokio::select! {
        started = Worker::start(arguments.config) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    worker.run(stop).await;
    Ok(())
}
