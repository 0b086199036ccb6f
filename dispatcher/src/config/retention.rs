// SPDX-License-Identifier: Apache-2.0

//! How long, and how much of it, everything is kept that would otherwise grow for ever.

use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use slipway_queue::retention::{Bounds, MIN_TAG_AGE};
use slipway_queue::topology::MIN_RECORD_AGE;
use slipway_service::settings;

const DAY_S: u64 = 24 * 60 * 60;

/// The server's own limit on the age of a stream is far above this.
const MAX_AGE_S: u64 = 100 * 365 * DAY_S;

fn ages() -> RangedU64ValueParser {
    RangedU64ValueParser::new()
}

/// How much is kept, and for how long.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "Retention")]
pub struct RetentionConfig {
    /// How often to look for what nobody needs any more, in seconds
    #[arg(
        long,
        env = "SLIPWAY_COLLECT_EVERY_S",
        value_name = "SECONDS",
        default_value_t = 600,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=86_400)
    )]
    pub collect_every_s: u32,
    /// How many bytes of artifacts are kept. Above that, the least recently used ones are removed
    /// that no unfinished build or dead letter needs
    #[arg(
        long,
        env = "SLIPWAY_ARTIFACTS_BYTES",
        value_name = "BYTES",
        default_value_t = 50 << 30
    )]
    pub artifacts_bytes: u64,
    /// How long an artifact is kept after its last use, in seconds
    #[arg(
        long,
        env = "SLIPWAY_ARTIFACTS_AGE_S",
        value_name = "SECONDS",
        default_value_t = 7 * DAY_S,
        value_parser = ages().range(1..=MAX_AGE_S)
    )]
    pub artifacts_age_s: u64,
    /// How long an artifact that was uploaded or asked for waits for its build whatever the bounds
    /// say, in seconds
    #[arg(
        long,
        env = "SLIPWAY_ARTIFACTS_GRACE_S",
        value_name = "SECONDS",
        default_value_t = 3600,
        value_parser = ages().range(..=MAX_AGE_S)
    )]
    pub artifacts_grace_s: u64,
    /// How many bytes of archived logs are kept; the oldest go first
    #[arg(
        long,
        env = "SLIPWAY_ARCHIVED_LOGS_BYTES",
        value_name = "BYTES",
        default_value_t = 10 << 30
    )]
    pub archived_logs_bytes: u64,
    /// How long an archived log is kept, in seconds
    #[arg(
        long,
        env = "SLIPWAY_ARCHIVED_LOGS_AGE_S",
        value_name = "SECONDS",
        default_value_t = 90 * DAY_S,
        value_parser = ages().range(1..=MAX_AGE_S)
    )]
    pub archived_logs_age_s: u64,
    /// How many bytes of live records are kept in NATS. Above that, the oldest of finished builds
    /// are removed after four hours; lists and details answer from the projection
    #[arg(
        long,
        env = "SLIPWAY_RECORDS_BYTES",
        value_name = "BYTES",
        default_value_t = 4 << 30
    )]
    pub records_bytes: u64,
    /// How long a live record is kept in NATS after its last change, in seconds
    #[arg(
        long,
        env = "SLIPWAY_RECORDS_AGE_S",
        value_name = "SECONDS",
        default_value_t = 3 * DAY_S,
        value_parser = ages().range(MIN_RECORD_AGE.as_secs()..=MAX_AGE_S)
    )]
    pub records_age_s: u64,
    /// How many bytes of owners of tags are kept in NATS; the oldest go first
    #[arg(long, env = "SLIPWAY_TAGS_BYTES", value_name = "BYTES", default_value_t = 1 << 30)]
    pub tags_bytes: u64,
    /// How long the owner of a tag is kept in NATS after the tag was last written, in seconds. It
    /// stays longer while an older build could still take the tag
    #[arg(
        long,
        env = "SLIPWAY_TAGS_AGE_S",
        value_name = "SECONDS",
        default_value_t = 90 * DAY_S,
        value_parser = ages().range(MIN_TAG_AGE.as_secs()..=MAX_AGE_S)
    )]
    pub tags_age_s: u64,
    /// How many bytes of dead letters are kept in NATS; the oldest are dropped first
    #[arg(
        long,
        env = "SLIPWAY_DEAD_LETTERS_BYTES",
        value_name = "BYTES",
        default_value_t = 1 << 30
    )]
    pub dead_letters_bytes: u64,
    /// How long a dead letter, and with it its artifact, waits for a replay, in seconds
    #[arg(
        long,
        env = "SLIPWAY_DEAD_LETTERS_AGE_S",
        value_name = "SECONDS",
        default_value_t = 30 * DAY_S,
        value_parser = ages().range(1..=MAX_AGE_S)
    )]
    pub dead_letters_age_s: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        settings::defaults()
    }
}

impl RetentionConfig {
    /// Returns the bounds.
    pub(crate) fn bounds(&self) -> Retention {
        let bounds = |age_s, bytes| Bounds { age: Duration::from_secs(age_s), bytes };
        Retention {
            artifacts: bounds(self.artifacts_age_s, self.artifacts_bytes),
            grace: Duration::from_secs(self.artifacts_grace_s),
            logs: bounds(self.archived_logs_age_s, self.archived_logs_bytes),
            records: bounds(self.records_age_s, self.records_bytes),
            tags: bounds(self.tags_age_s, self.tags_bytes),
            dead_letters: bounds(self.dead_letters_age_s, self.dead_letters_bytes),
        }
    }
}

/// The bounds on everything that is collected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) artifacts: Bounds,
    /// How long an artifact waits for its build.
    pub(crate) grace: Duration,
    pub(crate) logs: Bounds,
    pub(crate) records: Bounds,
    pub(crate) tags: Bounds,
    pub(crate) dead_letters: Bounds,
}
