// SPDX-License-Identifier: Apache-2.0

//! The options of `slipway dev`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slipway_dispatcher::config::{LimitsConfig, RetentionConfig};
use slipway_service::telemetry::TelemetryConfig;
use slipway_worker::RegistryConfig;

/// The options of `slipway dev`: its own, and those of dispatcher and worker that make sense on one
/// machine.
#[derive(Debug, Clone, Args, Serialize)]
pub struct DevArgs {
    /// Where the dispatcher listens; port 0 takes a free one (default: 127.0.0.1:7070)
    #[arg(long, value_name = "ADDRESS:PORT", env = "SLIPWAY_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where queue, artifacts, cache and logs are kept between runs
    /// (default: $XDG_DATA_HOME/slipway/dev or ~/.local/share/slipway/dev)
    #[arg(long, value_name = "DIRECTORY", env = "SLIPWAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The port of nats-server on 127.0.0.1 (default: a free one)
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    #[serde(skip)]
    pub nats_port: u16,
    /// The nats-server to run (default: the one in PATH)
    #[arg(long, value_name = "FILE", env = "SLIPWAY_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,
    /// Catalogue file that adds environments to the built-in ones
    #[arg(long, value_name = "FILE", env = "SLIPWAY_ENVIRONMENTS")]
    pub environments: Option<PathBuf>,
    /// How many builds run at once
    #[arg(
        long,
        value_name = "COUNT",
        env = "SLIPWAY_SLOTS",
        default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub slots: u32,
    /// How large the cache of base images may become, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        env = "SLIPWAY_CACHE_BYTES",
        default_value_t = super::CACHE_BYTES
    )]
    pub cache_bytes: u64,
    /// What is accepted at most.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitsConfig,
    /// How much is kept, and for how long.
    #[command(flatten)]
    #[serde(flatten)]
    pub retention: RetentionConfig,
    /// How registries are reached.
    #[command(flatten)]
    #[serde(flatten)]
    pub registries: RegistryConfig,
    /// What is logged.
    #[command(flatten)]
    #[serde(flatten)]
    pub telemetry: TelemetryConfig,
}
