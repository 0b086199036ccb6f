// SPDX-License-Identifier: Apache-2.0

//! Logs of a program: which lines are written, and how. The one place that installs a subscriber;
//! layers that export spans or metrics are added here.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which log lines are written: directives of `tracing-subscriber`, such as `info` or
/// `warn,slipway_worker=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryConfig {
    /// Which log lines are written to stderr, such as `info` or `warn,slipway_worker=debug`
    #[arg(long, env = "SLIPWAY_LOG", value_name = "FILTER")]
    pub log: Option<LogFilter>,
    /// How log lines are written
    #[arg(long, env = "SLIPWAY_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl TelemetryConfig {
    /// Starts to write log lines to stderr, filtered by `default` unless configured otherwise. Does
    /// nothing in a process that writes them already.
    pub fn start(&self, default: &str) {
        let filter = self.log.as_ref().map_or(default, |filter| &filter.0);
        let lines = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let _already_started = match self.log_format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().try_init(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_filters_nothing_is_refused() {
        assert!("warn,slipway_worker=debug".parse::<LogFilter>().is_ok());
        assert!("slipway_worker=loud".parse::<LogFilter>().is_err());
    }
}
