// SPDX-License-Identifier: Apache-2.0

//! Configuration in layers, lowest to highest: defaults, a TOML file, `SLIPWAY_*` variables, flags.
//!
//! One struct, [`Options`], is the file, the variables and the flags at once, with every value
//! optional; [`Config`] is what comes out, complete and checked. A key that does not exist is
//! refused, since a misspelt limit that is silently ignored shows only in an incident.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};
use slipway_proto::id::Prefix;
use slipway_queue::connection::redact;
use slipway_queue::topology::Limits;

/// The largest artifact that is accepted unless configured otherwise: 2 GiB.
const DEFAULT_MAX_ARTIFACT_BYTES: u64 = 2 << 30;

/// How often the reconciler sweeps unless configured otherwise: a build that a crash left half
/// accepted starts some ten seconds late.
const DEFAULT_RECONCILE_EVERY_S: u32 = 5;
const RECONCILE_EVERY_S: std::ops::RangeInclusive<u32> = 1..=3600;

/// A request of the largest size, with its headers.
const MIN_QUEUE_BYTES: i64 = 1 << 20;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings that somebody chose, in a file, a variable or a flag.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Address and port to listen on.
    #[arg(long, env = "SLIPWAY_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Listen on an address that other machines can reach, although nothing asks them who they are.
    #[arg(
        long,
        env = "SLIPWAY_INSECURE_LISTEN",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub insecure_listen: Option<bool>,
    /// NATS servers, separated by commas.
    #[arg(long, env = "SLIPWAY_NATS_URL", value_name = "URL")]
    pub nats_url: Option<String>,
    /// NATS credentials file (`.creds`).
    #[arg(long, env = "SLIPWAY_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// Prefix of all subjects, streams and buckets.
    #[arg(long, env = "SLIPWAY_PREFIX", value_name = "NAME")]
    pub prefix: Option<String>,
    /// How many copies of each stream the NATS cluster keeps: 1, 3 or 5.
    #[arg(long, env = "SLIPWAY_REPLICAS", value_name = "COUNT")]
    pub replicas: Option<usize>,
    /// Every NATS server has `sync_interval: always`: what it acknowledged survives a power failure.
    /// Your word for it, since a client cannot ask.
    #[arg(
        long,
        env = "SLIPWAY_NATS_SYNC_ALWAYS",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub nats_sync_always: Option<bool>,
    /// How many builds may wait or run; further ones are refused until some have ended.
    #[arg(long, env = "SLIPWAY_QUEUE_MESSAGES", value_name = "COUNT")]
    pub queue_messages: Option<i64>,
    /// How many bytes their requests may take in NATS.
    #[arg(long, env = "SLIPWAY_QUEUE_BYTES", value_name = "BYTES")]
    pub queue_bytes: Option<i64>,
    /// How often builds that a crash left half done are looked for, in seconds.
    #[arg(long, env = "SLIPWAY_RECONCILE_EVERY_S", value_name = "SECONDS")]
    pub reconcile_every_s: Option<u32>,
    /// Directory of the projection, which can be deleted at any time.
    #[arg(long, env = "SLIPWAY_DATA_DIR", value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,
    /// Artifact store: a directory or a URL. Workers need the same one.
    #[arg(long, env = "SLIPWAY_STORE", value_name = "URL")]
    pub store: Option<String>,
    /// The largest artifact that is accepted, in bytes.
    #[arg(long, env = "SLIPWAY_MAX_ARTIFACT_BYTES", value_name = "BYTES")]
    pub max_artifact_bytes: Option<u64>,
    /// Catalogue file that adds environments to the built-in ones.
    #[arg(long, env = "SLIPWAY_ENVIRONMENTS", value_name = "FILE")]
    pub environments: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, env = "SLIPWAY_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

impl Options {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not TOML, or holds a key that does not exist.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax { path: shown, source })
    }

    /// Takes each value from here, else from the layer below.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            listen: self.listen.or(lower.listen),
            insecure_listen: self.insecure_listen.or(lower.insecure_listen),
            nats_url: self.nats_url.or(lower.nats_url),
            nats_credentials: self.nats_credentials.or(lower.nats_credentials),
            prefix: self.prefix.or(lower.prefix),
            replicas: self.replicas.or(lower.replicas),
            nats_sync_always: self.nats_sync_always.or(lower.nats_sync_always),
            queue_messages: self.queue_messages.or(lower.queue_messages),
            queue_bytes: self.queue_bytes.or(lower.queue_bytes),
            reconcile_every_s: self.reconcile_every_s.or(lower.reconcile_every_s),
            data_dir: self.data_dir.or(lower.data_dir),
            store: self.store.or(lower.store),
            max_artifact_bytes: self.max_artifact_bytes.or(lower.max_artifact_bytes),
            environments: self.environments.or(lower.environments),
            log_format: self.log_format.or(lower.log_format),
        }
    }
}

/// The configuration of a dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens; port 0 means any free one.
    pub listen: SocketAddr,
    /// Whether that may be an address that other machines can reach.
    pub insecure_listen: bool,
    /// The NATS servers, separated by commas.
    pub nats_url: String,
    /// A NATS credentials file.
    pub nats_credentials: Option<PathBuf>,
    /// The prefix of all subjects, streams and buckets.
    pub prefix: String,
    /// How many copies of each stream the cluster keeps.
    pub replicas: usize,
    /// Whether the operator says that every NATS server flushes before it acknowledges.
    pub nats_sync_always: bool,
    /// How many builds may wait or run.
    pub queue_messages: i64,
    /// How many bytes their requests may take.
    pub queue_bytes: i64,
    /// How often the reconciler sweeps, in seconds.
    pub reconcile_every_s: u32,
    /// The directory of the projection.
    pub data_dir: PathBuf,
    /// The artifact store.
    pub store: String,
    /// The largest artifact in bytes.
    pub max_artifact_bytes: u64,
    /// The catalogue file that extends the built-in one.
    pub environments: Option<PathBuf>,
    /// How log lines are written.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self::from(Options::default())
    }
}

impl From<Options> for Config {
    /// Fills in the defaults.
    fn from(options: Options) -> Self {
        let limits = Limits::default();
        let data_dir = options.data_dir.unwrap_or_else(|| PathBuf::from("slipway-data"));
        let store =
            options.store.unwrap_or_else(|| data_dir.join("artifacts").display().to_string());
        Self {
            listen: options.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 7070))),
            insecure_listen: options.insecure_listen.unwrap_or(false),
            nats_url: options.nats_url.unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned()),
            nats_credentials: options.nats_credentials,
            prefix: options.prefix.unwrap_or_else(|| "slipway".to_owned()),
            replicas: options.replicas.unwrap_or(1),
            nats_sync_always: options.nats_sync_always.unwrap_or(false),
            queue_messages: options.queue_messages.unwrap_or(limits.queue_messages),
            queue_bytes: options.queue_bytes.unwrap_or(limits.queue_bytes),
            reconcile_every_s: options.reconcile_every_s.unwrap_or(DEFAULT_RECONCILE_EVERY_S),
            data_dir,
            store,
            max_artifact_bytes: options.max_artifact_bytes.unwrap_or(DEFAULT_MAX_ARTIFACT_BYTES),
            environments: options.environments,
            log_format: options.log_format.unwrap_or_default(),
        }
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            listen: Some(config.listen),
            insecure_listen: Some(config.insecure_listen),
            nats_url: Some(config.nats_url.clone()),
            nats_credentials: config.nats_credentials.clone(),
            prefix: Some(config.prefix.clone()),
            replicas: Some(config.replicas),
            nats_sync_always: Some(config.nats_sync_always),
            queue_messages: Some(config.queue_messages),
            queue_bytes: Some(config.queue_bytes),
            reconcile_every_s: Some(config.reconcile_every_s),
            data_dir: Some(config.data_dir.clone()),
            store: Some(config.store.clone()),
            max_artifact_bytes: Some(config.max_artifact_bytes),
            environments: config.environments.clone(),
            log_format: Some(config.log_format),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("the configuration file {path} does not parse")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// Values that cannot be.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

impl Config {
    /// Puts the layers together: `chosen` (variables and flags) over the file over the defaults.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, or [`validate`](Self::validate) finds something.
    pub fn load(file: Option<&Path>, chosen: Options) -> Result<Self, ConfigError> {
        let lower = file.map(Options::from_file).transpose()?.unwrap_or_default();
        let config = Self::from(chosen.over(lower));
        config.validate()?;
        Ok(config)
    }

    /// Checks the values, as far as that needs no I/O.
    ///
    /// # Errors
    ///
    /// Says everything that is wrong, at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        if !self.listen.ip().is_loopback() && !self.insecure_listen {
            wrong.push(format!(
                "listen: {} can be reached by other machines, and the API does not ask for tokens yet: listen on 127.0.0.1, or pass --insecure-listen if something in front of it keeps strangers out",
                self.listen
            ));
        }
        if let Err(error) = self.prefix.parse::<Prefix>() {
            wrong.push(format!("prefix: {error}"));
        }
        if !matches!(self.replicas, 1 | 3 | 5) {
            wrong.push(format!("replicas: {} is none of 1, 3 and 5", self.replicas));
        }
        if self.queue_messages < 1 {
            wrong.push("queue_messages: a queue that holds nothing refuses every build".to_owned());
        }
        if self.queue_bytes < MIN_QUEUE_BYTES {
            wrong.push(format!(
                "queue_bytes: {} does not hold one large request: allow {MIN_QUEUE_BYTES} at least",
                self.queue_bytes
            ));
        }
        if !RECONCILE_EVERY_S.contains(&self.reconcile_every_s) {
            wrong.push(format!(
                "reconcile_every_s: {} is not between {} and {}",
                self.reconcile_every_s,
                RECONCILE_EVERY_S.start(),
                RECONCILE_EVERY_S.end()
            ));
        }
        if self.max_artifact_bytes == 0 {
            wrong.push("max_artifact_bytes: 0 would refuse every artifact".to_owned());
        }
        if self.nats_url.split(',').any(|url| url.trim().is_empty()) {
            wrong.push("nats_url: name at least one server, as nats://host:4222".to_owned());
        }
        if self.store.trim().is_empty() {
            wrong.push("store: name a directory or a URL".to_owned());
        }
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(wrong)) }
    }

    /// Writes the configuration as the file that would give it, without its secrets.
    #[must_use]
    pub fn redacted(&self) -> String {
        let mut options = Options::from(self);
        options.nats_url = options.nats_url.map(|urls| redact(&urls));
        options.store = options.store.map(|url| redact(&url));
        toml::to_string(&options).expect("options are plain values")
    }

    /// Returns the bounds of the streams.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            queue_messages: self.queue_messages,
            queue_bytes: self.queue_bytes,
            ..Limits::default()
        }
    }

    /// Returns the prefix of all names in NATS.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.parse().expect("validate checked the prefix")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(toml: &str) -> Options {
        toml::from_str(toml).expect("it parses")
    }

    #[test]
    fn a_higher_layer_wins_and_the_lower_one_fills_in() {
        let file = options("listen = '127.0.0.1:1'\nreplicas = 3");
        let flags = options("listen = '127.0.0.1:2'");
        let config = Config::from(flags.over(file));
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.replicas, 3);
        assert_eq!(config.nats_url, "nats://127.0.0.1:4222");
        assert_eq!(config.store, "slipway-data/artifacts");
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused() {
        let error = toml::from_str::<Options>("max_artefact_bytes = 1").expect_err("it is unknown");
        assert!(error.to_string().contains("unknown field `max_artefact_bytes`"), "{error}");
    }

    #[test]
    fn an_address_that_others_can_reach_needs_a_word() {
        let open = Config { listen: SocketAddr::from(([0, 0, 0, 0], 7070)), ..Config::default() };
        insta::assert_snapshot!(open.validate().expect_err("it is refused"));
        assert!(Config { insecure_listen: true, ..open }.validate().is_ok());
        let v6 = Config { listen: "[::1]:7070".parse().expect("it parses"), ..Config::default() };
        assert!(v6.validate().is_ok());
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let config = Config {
            prefix: "a.b".into(),
            replicas: 2,
            queue_messages: 0,
            queue_bytes: 0,
            reconcile_every_s: 0,
            max_artifact_bytes: 0,
            nats_url: String::new(),
            store: String::new(),
            ..Config::default()
        };
        let Err(ConfigError::Invalid(wrong)) = config.validate() else { panic!("it is accepted") };
        assert_eq!(wrong.len(), 8, "{wrong:?}");
    }

    #[test]
    fn the_printed_configuration_is_a_file_without_secrets() {
        let config = Config {
            nats_url: "nats://user:secret@one:4222, nats://token@two:4222,three".into(),
            store: "s3://key:secret@bucket/path?secret=1".into(),
            ..Config::default()
        };
        let text = config.redacted();
        assert!(!text.contains("secret") && !text.contains("token"), "{text}");
        insta::assert_snapshot!(text);
        options(&text);
    }
}
