// SPDX-License-Identifier: Apache-2.0

//! How registries are reached: options of the commands that push from this process.

use std::path::PathBuf;

use clap::Args;
use slipway_worker::Mirror;

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// Read images below PREFIX from MIRROR instead, as docker.io=127.0.0.1:5000/docker.io
    #[arg(
        long = "mirror",
        value_name = "PREFIX=MIRROR",
        env = "SLIPWAY_MIRRORS",
        value_delimiter = ','
    )]
    pub mirrors: Vec<Mirror>,
    /// Use plain HTTP with this registry; registries on loopback do not need it
    #[arg(
        long = "insecure-registry",
        value_name = "HOST:PORT",
        env = "SLIPWAY_INSECURE_REGISTRIES",
        value_delimiter = ','
    )]
    pub insecure_registries: Vec<String>,
    /// A Docker config.json with registry credentials, instead of ~/.docker/config.json
    #[arg(
        long = "docker-config",
        value_name = "FILE",
        env = "SLIPWAY_DOCKER_CONFIGS",
        value_delimiter = ','
    )]
    pub docker_configs: Vec<PathBuf>,
}
