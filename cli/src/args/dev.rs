// SPDX-License-Identifier: Apache-2.0

//! The options of `slipway dev`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::RegistryArgs;

/// The options of `slipway dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where the dispatcher listens; port 0 takes a free one (default: 127.0.0.1:7070)
    #[arg(long, value_name = "ADDRESS:PORT", env = "SLIPWAY_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where queue, artifacts, cache and logs are kept between runs
    /// (default: $XDG_DATA_HOME/slipway/dev or ~/.local/share/slipway/dev)
    #[arg(long, value_name = "DIR", env = "SLIPWAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The port of nats-server on 127.0.0.1 (default: a free one)
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub nats_port: u16,
    /// The nats-server to run (default: the one in PATH)
    #[arg(long, value_name = "FILE", env = "SLIPWAY_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// A TOML file with more environments
    #[arg(long, value_name = "FILE", env = "SLIPWAY_ENVIRONMENTS")]
    pub environments: Option<PathBuf>,
    /// How many builds run at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=256)
    )]
    pub slots: u32,
}
