// SPDX-License-Identifier: Apache-2.0

//! The settings of a worker.
//!
//! Each part has a struct of its own, which `slipway dev` and `slipway build --local` take apart
//! from the rest. How the layers are put together is `slipway_service::settings`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use slipway_proto::{PoolName, WorkerId};
use slipway_queue::NatsConfig;
use slipway_service::admin::AdminConfig;
use slipway_service::directories::{self, StoreConfig};
use slipway_service::settings::{self, Mistakes};

use crate::base::Mirror;
use slipway_registry::RegistryOptions;

/// The settings of a worker.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct Config {
    /// Name of this worker, unique in the fleet (default: the host's name with a random part)
    #[arg(long, env = "SLIPWAY_WORKER_ID", value_name = "NAME")]
    pub id: Option<WorkerId>,
    /// Pool to take builds from
    #[arg(long, env = "SLIPWAY_POOL", value_name = "NAME", default_value_t)]
    pub pool: PoolName,
    /// How many builds run at once; twice the processors unless chosen
    #[arg(
        long,
        env = "SLIPWAY_SLOTS",
        value_name = "COUNT",
        default_value_t = default_slots(),
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=1024)
    )]
    pub slots: u32,
    /// How many seconds a worker that was told to stop works on what it holds, before it hands back
    /// the rest
    #[arg(long, env = "SLIPWAY_DRAIN_GRACE_S", value_name = "SECONDS", default_value_t = 30)]
    pub drain_grace_s: u64,
    /// Time of files and images in seconds since the epoch; the same in the whole fleet, or digests
    /// differ
    #[arg(
        long,
        env = "SOURCE_DATE_EPOCH",
        value_name = "SECONDS",
        default_value_t = crate::assemble::DEFAULT_EPOCH,
        allow_negative_numbers = true
    )]
    pub source_date_epoch: i64,
    /// The artifact store.
    #[command(flatten)]
    #[serde(flatten)]
    pub store: StoreConfig,
    /// The cache of base layers.
    #[command(flatten)]
    #[serde(flatten)]
    pub cache: CacheConfig,
    /// How registries are reached.
    #[command(flatten)]
    #[serde(flatten)]
    pub registries: RegistryConfig,
    /// The connection to NATS.
    #[command(flatten)]
    #[serde(flatten)]
    pub nats: NatsConfig,
    /// The admin listener.
    #[command(flatten)]
    #[serde(flatten)]
    pub admin: AdminConfig,
}

/// The settings of the cache of base layers.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CacheConfig {
    /// Directory of the blob cache and of scratch files
    #[arg(
        long,
        env = "SLIPWAY_CACHE_DIR",
        value_name = "DIRECTORY",
        default_value = directories::cache().into_os_string()
    )]
    pub cache_dir: PathBuf,
    /// How large the blob cache may become, in bytes
    #[arg(long, env = "SLIPWAY_CACHE_BYTES", value_name = "BYTES", default_value_t = 20 << 30)]
    pub cache_bytes: u64,
}

/// How registries are reached.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Registries")]
pub struct RegistryConfig {
    /// Read images below PREFIX from MIRROR instead, as docker.io=127.0.0.1:5000/docker.io;
    /// repeatable
    #[arg(
        long = "mirror",
        env = "SLIPWAY_MIRRORS",
        value_name = "PREFIX=MIRROR",
        value_delimiter = ','
    )]
    pub mirrors: Vec<Mirror>,
    /// Speak plain HTTP with this registry; loopback ones need no such option; repeatable
    #[arg(
        long = "insecure-registry",
        env = "SLIPWAY_INSECURE_REGISTRIES",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub insecure_registries: Vec<String>,
    /// Speak TLS with this registry although it is on a loopback address; repeatable
    #[arg(
        long = "registry-tls",
        env = "SLIPWAY_REGISTRY_TLS",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub registry_tls: Vec<String>,
    /// Docker config.json with registry credentials; repeatable
    #[arg(
        long = "docker-config",
        env = "SLIPWAY_DOCKER_CONFIGS",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub docker_configs: Vec<PathBuf>,
    /// Upload blobs above this many bytes in chunks of that size, so that a broken connection costs
    /// at most one; 0 is never
    #[arg(
        long,
        env = "SLIPWAY_UPLOAD_CHUNK_BYTES",
        value_name = "BYTES",
        default_value_t = 64 << 20
    )]
    pub upload_chunk_bytes: u64,
}

impl RegistryConfig {
    /// Returns the mistakes that no value shows alone, each with its setting.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let both = self.registry_tls.iter().filter(|host| self.insecure_registries.contains(host));
        let mistake = |host: &String| {
            ("registry_tls", format!("{host} is also listed in insecure_registries: choose one"))
        };
        both.map(mistake).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        settings::defaults()
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        settings::defaults()
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        settings::defaults()
    }
}

/// Twice the number of processors, because half of a build is waiting for a registry.
fn default_slots() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(2 * processors).unwrap_or(2).min(1024)
}

impl Config {
    /// Adds mistakes that no value shows alone.
    pub fn check(&self, mistakes: &mut Mistakes) {
        for (setting, message) in self.nats.mistakes() {
            mistakes.add(setting, message);
        }
        for (setting, message) in self.registries.mistakes() {
            mistakes.add(setting, message);
        }
    }

    /// Returns how long a worker that was told to stop works on what it holds.
    #[must_use]
    pub fn drain_grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_s)
    }

    /// Returns how registries are reached.
    #[must_use]
    pub fn registry_options(&self) -> RegistryOptions {
        let RegistryConfig {
            insecure_registries,
            registry_tls,
            docker_configs,
            upload_chunk_bytes,
            mirrors: _,
        } = &self.registries;
        RegistryOptions {
            insecure: insecure_registries.clone(),
            tls: registry_tls.clone(),
            docker_configs: docker_configs.clone(),
            upload_chunk_bytes: *upload_chunk_bytes,
        }
    }

    /// Returns the settings that are looked for first when something is wrong.
    #[must_use]
    pub fn essentials(&self) -> String {
        let Self { pool, slots, nats, store, .. } = self;
        format!(
            "pool {pool}, {slots} slots, NATS {} with prefix {}, store {}",
            nats.nats_url, nats.prefix, store.store
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_configuration_has_every_setting_and_no_secrets() {
        let mut config = Config {
            slots: 4,
            store: StoreConfig { store: "s3://key:hunter2@bucket/path?secret=hunter2".into() },
            ..Config::default()
        };
        config.nats.nats_url = "nats://user:hunter2@one:4222,two".into();
        config.nats.nats_password = Some("hunter2".to_owned().into());
        config.cache.cache_dir = "/var/cache/slipway".into();
        let printed = toml::to_string(&config).expect("plain values");
        assert!(!printed.contains("hunter2"), "{printed}");
        insta::assert_snapshot!(printed);
    }
}
