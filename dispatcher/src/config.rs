// SPDX-License-Identifier: Apache-2.0

//! The settings of a dispatcher.
//!
//! How the layers are put together is `slipway_service::settings`; the connection to NATS and the
//! artifact store have the settings that workers have too.

pub mod retention;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ArgAction;
use clap::builder::{BoolishValueParser, RangedI64ValueParser, RangedU64ValueParser};
use serde::Serialize;
use slipway_queue::NatsConfig;
use slipway_queue::topology::Limits;
use slipway_service::directories::{self, StoreConfig};
use slipway_service::settings::{self, Mistakes};

pub use retention::RetentionConfig;

/// A request of the largest size, with its headers.
const MIN_QUEUE_BYTES: i64 = 1 << 20;

/// The settings of a dispatcher.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct Config {
    /// Address and port to listen on; port 0 means any free one
    #[arg(
        long,
        env = "SLIPWAY_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7070"
    )]
    pub listen: SocketAddr,
    /// Listen on an address that other machines can reach, even though the API has no
    /// authentication
    #[arg(
        long,
        env = "SLIPWAY_INSECURE_LISTEN",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub insecure_listen: bool,
    /// Directory of the projection, which can be deleted at any time
    #[arg(
        long,
        env = "SLIPWAY_DATA_DIR",
        value_name = "DIRECTORY",
        default_value = directories::state().join("dispatcher").into_os_string()
    )]
    pub data_dir: PathBuf,
    /// Catalogue file that adds environments to the built-in ones
    #[arg(long, env = "SLIPWAY_ENVIRONMENTS", value_name = "FILE")]
    pub environments: Option<PathBuf>,
    /// How often to look for builds that a crash left half done, in seconds. Such a build starts
    /// about twice as late
    #[arg(
        long,
        env = "SLIPWAY_RECONCILE_EVERY_S",
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=3600)
    )]
    pub reconcile_every_s: u32,
    /// Every NATS server has `sync_interval: always`: what it acknowledged survives a power failure.
    /// Only the operator can say so, because a client cannot ask
    #[arg(
        long,
        env = "SLIPWAY_NATS_SYNC_ALWAYS",
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub nats_sync_always: bool,
    /// What is accepted at most.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitsConfig,
    /// How much is kept, and for how long.
    #[command(flatten)]
    #[serde(flatten)]
    pub retention: RetentionConfig,
    /// The artifact store.
    #[command(flatten)]
    #[serde(flatten)]
    pub store: StoreConfig,
    /// The connection to NATS.
    #[command(flatten)]
    #[serde(flatten)]
    pub nats: NatsConfig,
}

/// What is accepted at most.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Limits")]
pub struct LimitsConfig {
    /// The largest artifact that is accepted, in bytes
    #[arg(
        long,
        env = "SLIPWAY_MAX_ARTIFACT_BYTES",
        value_name = "BYTES",
        default_value_t = 2 << 30,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..)
    )]
    pub max_artifact_bytes: u64,
    /// How many builds wait or run at most; further ones are refused until some have ended
    #[arg(
        long,
        env = "SLIPWAY_QUEUE_MESSAGES",
        value_name = "COUNT",
        default_value_t = Limits::default().queue_messages,
        value_parser = RangedI64ValueParser::<i64>::new().range(1..)
    )]
    pub queue_messages: i64,
    /// How many bytes their requests take in NATS at most
    #[arg(
        long,
        env = "SLIPWAY_QUEUE_BYTES",
        value_name = "BYTES",
        default_value_t = Limits::default().queue_bytes,
        value_parser = RangedI64ValueParser::<i64>::new().range(MIN_QUEUE_BYTES..)
    )]
    pub queue_bytes: i64,
}

impl Default for Config {
    fn default() -> Self {
        settings::defaults()
    }
}

impl Config {
    /// Adds mistakes that no value shows alone.
    pub fn check(&self, mistakes: &mut Mistakes) {
        if !self.listen.ip().is_loopback() && !self.insecure_listen {
            mistakes.add(
                "listen",
                format!(
                    "other machines can reach {}, and the API has no authentication yet: listen on 127.0.0.1, or pass --insecure-listen if something in front of it keeps strangers out",
                    self.listen
                ),
            );
        }
        for (setting, message) in self.nats.mistakes() {
            mistakes.add(setting, message);
        }
    }

    /// Returns the settings that are looked for first when something is wrong.
    #[must_use]
    pub fn essentials(&self) -> String {
        let Self { listen, nats, store, data_dir, .. } = self;
        format!(
            "listen {listen}, NATS {} with prefix {}, store {}, data {}",
            nats.nats_url,
            nats.prefix,
            store.store,
            data_dir.display()
        )
    }

    /// Returns the bounds of the streams.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            queue_messages: self.limits.queue_messages,
            queue_bytes: self.limits.queue_bytes,
            records_age: self.retention.bounds().records.age,
            dead_letters_age: self.retention.bounds().dead_letters.age,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(config: &Config) -> Vec<String> {
        let mut mistakes = Mistakes::default();
        config.check(&mut mistakes);
        mistakes.found().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_that_others_can_reach_has_to_be_allowed() {
        let open = Config { listen: SocketAddr::from(([0, 0, 0, 0], 7070)), ..Config::default() };
        insta::assert_snapshot!(wrong(&open).join("\n"));
        assert!(wrong(&Config { insecure_listen: true, ..open }).is_empty());
        let v6 = Config { listen: "[::1]:7070".parse().expect("it parses"), ..Config::default() };
        assert!(wrong(&v6).is_empty());
    }

    #[test]
    fn the_printed_configuration_has_every_setting_and_no_secrets() {
        let mut config = Config {
            data_dir: "/var/lib/slipway/dispatcher".into(),
            store: StoreConfig { store: "s3://key:secret@bucket/path?secret=1".into() },
            ..Config::default()
        };
        config.nats.nats_url = "nats://user:secret@one:4222, nats://token@two:4222,three".into();
        let text = toml::to_string(&config).expect("plain values");
        assert!(!text.contains("secret") && !text.contains("token"), "{text}");
        insta::assert_snapshot!(text);
    }
}
