// SPDX-License-Identifier: Apache-2.0

//! The settings of the connection to NATS: one declaration for every program that has one.

use std::path::PathBuf;

use serde::Serialize;
use slipway_proto::id::Prefix;
use slipway_secret::{Secret, SecretUrl};

/// Where NATS is, how to log in, and how the streams are named and kept.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(next_help_heading = "NATS")]
pub struct NatsConfig {
    /// NATS servers, separated by commas
    #[arg(
        long,
        env = "SLIPWAY_NATS_URL",
        value_name = "URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222",
        value_parser = servers
    )]
    pub nats_url: SecretUrl,
    /// NATS credentials file (`.creds`)
    #[arg(long, env = "SLIPWAY_NATS_CREDENTIALS", value_name = "FILE")]
    pub nats_credentials: Option<PathBuf>,
    /// User at NATS; needs a password
    #[arg(long, env = "SLIPWAY_NATS_USER", value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Password of that user; better given by the environment than where `ps` shows it
    #[arg(long, env = "SLIPWAY_NATS_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub nats_password: Option<Secret>,
    /// Token at NATS; better given by the environment than where `ps` shows it
    #[arg(long, env = "SLIPWAY_NATS_TOKEN", value_name = "TEXT", hide_env_values = true)]
    pub nats_token: Option<Secret>,
    /// Seed of an NKey; better given by the environment than where `ps` shows it
    #[arg(long, env = "SLIPWAY_NATS_NKEY", value_name = "SEED", hide_env_values = true)]
    pub nats_nkey: Option<Secret>,
    /// Prefix of all subjects, streams and buckets
    #[arg(long, env = "SLIPWAY_PREFIX", value_name = "NAME", default_value_t)]
    pub prefix: Prefix,
    /// How many copies of each stream the NATS cluster keeps: 1, 3 or 5
    #[arg(
        long,
        env = "SLIPWAY_REPLICAS",
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = replicas
    )]
    pub replicas: usize,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            nats_url: "nats://127.0.0.1:4222".into(),
            nats_credentials: None,
            nats_user: None,
            nats_password: None,
            nats_token: None,
            nats_nkey: None,
            prefix: Prefix::default(),
            replicas: 1,
        }
    }
}

impl NatsConfig {
    /// Returns what is wrong with several settings together, each with its setting.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut mistakes = Vec::new();
        if self.nats_user.is_some() && self.nats_password.is_none() {
            mistakes.push(("nats_user", "needs nats_password as well"));
        }
        if self.nats_password.is_some() && self.nats_user.is_none() {
            mistakes.push(("nats_password", "needs nats_user as well"));
        }
        let logins = [
            ("nats_credentials", self.nats_credentials.is_some()),
            ("nats_user", self.nats_user.is_some()),
            ("nats_token", self.nats_token.is_some()),
            ("nats_nkey", self.nats_nkey.is_some()),
        ];
        let chosen = logins.into_iter().filter(|(_, is_chosen)| *is_chosen);
        mistakes.extend(
            chosen
                .skip(1)
                .map(|(name, _)| (name, "is one of several ways to log in to NATS: choose one")),
        );
        mistakes
    }
}

fn servers(text: &str) -> Result<SecretUrl, &'static str> {
    if text.split(',').any(|url| url.trim().is_empty()) {
        return Err("name at least one server, as nats://host:4222");
    }
    Ok(text.into())
}

fn replicas(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("is none of 1, 3 and 5"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_way_to_log_in() {
        let token = Some(Secret::from("x".to_owned()));
        let config = NatsConfig {
            nats_user: Some("ci".to_owned()),
            nats_token: token.clone(),
            ..NatsConfig::default()
        };
        let mistakes = config.mistakes();
        let settings: Vec<_> = mistakes.iter().map(|(setting, _)| *setting).collect();
        assert_eq!(settings, ["nats_user", "nats_token"]);
        let config = NatsConfig { nats_token: token, ..NatsConfig::default() };
        assert!(config.mistakes().is_empty());
    }

    #[test]
    fn the_value_of_each_setting_is_bounded() {
        assert!(servers("nats://a:4222, b").is_ok() && servers("a,,b").is_err());
        assert!(replicas("3").is_ok() && replicas("2").is_err());
    }
}
