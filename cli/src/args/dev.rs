// SPDX-License-Identifier: Apache-2.0

//! The options of `slipway dev`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use slipway_worker::Mirror;

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
    /// Read images below PREFIX from MIRROR instead, as docker.io=127.0.0.1:5000/docker.io
    #[arg(
        long = "mirror",
        value_name = "PREFIX=MIRROR",
        env = "SLIPWAY_MIRRORS",
        value_delimiter = ','
    )]
    pub mirrors: Vec<Mirror>,
    /// Speak plain HTTP with this registry; loopback ones need no such option
    #[arg(
        long = "insecure-registry",
        value_name = "HOST:PORT",
        env = "SLIPWAY_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    pub insecure_registries: Vec<String>,
    /// A Docker config.json with registry credentials, in place of ~/.docker/config.json
    #[arg(
        long = "docker-config",
        value_name = "FILE",
        env = "SLIPWAY_DOCKER_CONFIGS",
        value_delimiter = ','
    )]
    pub docker_configs: Vec<PathBuf>,
    /// A TOML file with further environments
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
