// SPDX-License-Identifier: Apache-2.0

//! What a worker is told: defaults, a TOML file, `SLIPWAY_*` variables, flags, each over the last.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipway_proto::id::Prefix;
use slipway_proto::{PoolName, WorkerId};
use slipway_queue::connection::redact;

use crate::base::Mirror;
use slipway_registry::RegistryOptions;

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// NATS server URLs, separated by commas.
    pub nats_url: String,
    /// A NATS credentials file.
    pub nats_credentials: Option<PathBuf>,
    /// The prefix of all subjects, streams and buckets.
    pub prefix: Prefix,
    /// What the worker calls itself; made from the host name and a random part if not given.
    pub id: Option<WorkerId>,
    /// The pool it takes builds from.
    pub pool: PoolName,
    /// How many builds it runs at once.
    pub slots: u32,
    /// The artifact store: a directory or URL, the dispatcher's.
    pub store: String,
    /// The directory of the blob cache and of scratch files.
    pub cache_dir: PathBuf,
    /// How large the blob cache may grow, in bytes.
    pub cache_bytes: u64,
    /// Where base images are read from instead.
    pub mirrors: Vec<Mirror>,
    /// Registries that are spoken to in plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Docker `config.json` files with registry credentials.
    pub docker_configs: Vec<PathBuf>,
    /// Blobs above this many bytes are uploaded in chunks of that size, so that a broken connection
    /// costs at most one; 0 is never.
    pub upload_chunk_bytes: u64,
    /// How long a worker that was told to stop works on what it holds before it gives it back.
    pub drain_grace: Duration,
    /// The time of files and images, in seconds since the epoch; `SOURCE_DATE_EPOCH` of a local
    /// build. Workers of one fleet must agree on it, or digests will not.
    pub source_date_epoch: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            nats_credentials: None,
            prefix: Prefix::default(),
            id: None,
            pool: PoolName::default(),
            slots: default_slots(),
            store: "/var/lib/slipway/store".to_owned(),
            cache_dir: PathBuf::from("/var/cache/slipway"),
            cache_bytes: 20 << 30,
            mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            docker_configs: Vec::new(),
            upload_chunk_bytes: 64 << 20,
            drain_grace: Duration::from_secs(30),
            source_date_epoch: crate::assemble::DEFAULT_EPOCH,
        }
    }
}

/// Twice the processors: half of a build is waiting for a registry.
fn default_slots() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(2 * processors).unwrap_or(2)
}

/// A setting that does not parse.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key.
    #[error("the configuration file {path} is wrong: {source}")]
    Parse {
        /// The file.
        path: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// Settings that do not hold; all of them.
    #[error("the configuration is wrong:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// The settings as they are written, in a file (by these names), in the environment or as flags.
#[derive(Debug, Clone, Default, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// NATS server URLs, separated by commas
    #[arg(long, env = "SLIPWAY_NATS_URL")]
    pub nats_url: Option<String>,
    /// NATS credentials file (.creds)
    #[arg(long, env = "SLIPWAY_NATS_CREDENTIALS")]
    pub nats_credentials: Option<PathBuf>,
    /// Prefix of all subjects, streams and buckets
    #[arg(long, env = "SLIPWAY_PREFIX")]
    pub prefix: Option<String>,
    /// Name of this worker, unique in the fleet
    #[arg(long, env = "SLIPWAY_WORKER_ID")]
    pub id: Option<String>,
    /// Pool to take builds from
    #[arg(long, env = "SLIPWAY_POOL")]
    pub pool: Option<String>,
    /// Builds to run at once
    #[arg(long, env = "SLIPWAY_SLOTS")]
    pub slots: Option<u32>,
    /// Artifact store: directory or URL
    #[arg(long, env = "SLIPWAY_STORE")]
    pub store: Option<String>,
    /// Directory of the blob cache and of scratch files
    #[arg(long, env = "SLIPWAY_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Bound of the blob cache in bytes
    #[arg(long, env = "SLIPWAY_CACHE_BYTES")]
    pub cache_bytes: Option<u64>,
    /// Read base images from elsewhere: PREFIX=MIRROR, repeatable
    #[arg(long = "mirror", env = "SLIPWAY_MIRRORS", value_delimiter = ',')]
    pub mirrors: Option<Vec<String>>,
    /// Registry (host:port) to speak to in plain HTTP, repeatable
    #[arg(long = "insecure-registry", env = "SLIPWAY_INSECURE_REGISTRIES", value_delimiter = ',')]
    pub insecure_registries: Option<Vec<String>>,
    /// Docker config.json with registry credentials, repeatable
    #[arg(long = "docker-config", env = "SLIPWAY_DOCKER_CONFIGS", value_delimiter = ',')]
    pub docker_configs: Option<Vec<PathBuf>>,
    /// Upload blobs above this many bytes in chunks of that size; 0 is never
    #[arg(long, env = "SLIPWAY_UPLOAD_CHUNK_BYTES")]
    pub upload_chunk_bytes: Option<u64>,
    /// Seconds to finish what is held after being told to stop
    #[arg(long, env = "SLIPWAY_DRAIN_GRACE_S")]
    pub drain_grace_s: Option<u64>,
    /// Time of files and images in seconds since the epoch; the same in the whole fleet
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    pub source_date_epoch: Option<i64>,
}

impl Options {
    /// Reads the options of a TOML file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not TOML or has an unknown key.
    pub fn read(path: &std::path::Path) -> Result<Self, ConfigError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: shown(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: shown(), source: Box::new(source) })
    }

    /// Returns the configuration that these options say, those of `file` standing in where one is
    /// not given.
    ///
    /// # Errors
    ///
    /// Returns every setting that does not hold.
    pub fn resolve(self, file: Self) -> Result<Config, ConfigError> {
        let mut mistakes = Vec::new();
        let default = Config::default();
        let prefix = parse(self.prefix.or(file.prefix), "prefix", &mut mistakes);
        let id = parse(self.id.or(file.id), "id", &mut mistakes);
        let pool = parse(self.pool.or(file.pool), "pool", &mut mistakes);
        let slots = self.slots.or(file.slots).unwrap_or(default.slots);
        if !(1..=1024).contains(&slots) {
            mistakes.push(format!("slots: {slots} is not a number from 1 to 1024"));
        }
        let mirrors = self.mirrors.or(file.mirrors).unwrap_or_default();
        let mirrors = mirrors
            .into_iter()
            .filter_map(|mirror| parse(Some(mirror), "mirrors", &mut mistakes))
            .collect();
        if !mistakes.is_empty() {
            return Err(ConfigError::Invalid(mistakes));
        }
        let drain_grace_s = self.drain_grace_s.or(file.drain_grace_s);
        Ok(Config {
            nats_url: self.nats_url.or(file.nats_url).unwrap_or(default.nats_url),
            nats_credentials: self.nats_credentials.or(file.nats_credentials),
            prefix: prefix.unwrap_or_default(),
            id,
            pool: pool.unwrap_or_default(),
            slots,
            store: self.store.or(file.store).unwrap_or(default.store),
            cache_dir: self.cache_dir.or(file.cache_dir).unwrap_or(default.cache_dir),
            cache_bytes: self.cache_bytes.or(file.cache_bytes).unwrap_or(default.cache_bytes),
            mirrors,
            insecure_registries: self
                .insecure_registries
                .or(file.insecure_registries)
                .unwrap_or_default(),
            docker_configs: self.docker_configs.or(file.docker_configs).unwrap_or_default(),
            upload_chunk_bytes: self
                .upload_chunk_bytes
                .or(file.upload_chunk_bytes)
                .unwrap_or(default.upload_chunk_bytes),
            drain_grace: drain_grace_s.map_or(default.drain_grace, Duration::from_secs),
            source_date_epoch: self
                .source_date_epoch
                .or(file.source_date_epoch)
                .unwrap_or(default.source_date_epoch),
        })
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: Option<String>,
    name: &str,
    mistakes: &mut Vec<String>,
) -> Option<T> {
    match text?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            mistakes.push(format!("{name}: {error}"));
            None
        }
    }
}

impl Config {
    /// Returns how registries are reached.
    #[must_use]
    pub fn registry_options(&self) -> RegistryOptions {
        RegistryOptions {
            insecure: self.insecure_registries.clone(),
            docker_configs: self.docker_configs.clone(),
            upload_chunk_bytes: self.upload_chunk_bytes,
        }
    }

    /// Writes the configuration for people, without secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        let (nats_url, store) = (redact(&self.nats_url), redact(&self.store));
        format!("{:#?}", Self { nats_url, store, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file: Options = toml::from_str("slots = 3\npool = \"arm\"").expect("TOML");
        let flags = Options { slots: Some(7), ..Options::default() };
        let config = flags.resolve(file).expect("it holds");
        assert_eq!((config.slots, config.pool.as_str()), (7, "arm"));
        assert_eq!(config.prefix.as_str(), "slipway");
    }

    #[test]
    fn unknown_keys_are_refused_and_mistakes_come_all_at_once() {
        assert!(toml::from_str::<Options>("slotss = 3").is_err());
        let flags = Options {
            slots: Some(0),
            pool: Some("A".into()),
            mirrors: Some(vec!["x".into()]),
            ..Options::default()
        };
        let ConfigError::Invalid(mistakes) =
            flags.resolve(Options::default()).expect_err("it does not hold")
        else {
            panic!("another error");
        };
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }

    #[test]
    fn passwords_are_not_described() {
        let config = Config { nats_url: "nats://u:secret@h:4222".into(), ..Config::default() };
        assert!(!config.describe().contains("secret"));
    }
}
