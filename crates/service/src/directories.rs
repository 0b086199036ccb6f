// SPDX-License-Identifier: Apache-2.0

//! Where programs keep their files unless configured otherwise: one answer for all of them, so that
//! a dispatcher and a worker of one machine find the same artifact store by defaults alone.
//!
//! systemd names directories to a service that asks for them (`StateDirectory=`,
//! `CacheDirectory=`). Other processes use those of the XDG Base Directory Specification, and
//! without a home directory those of the Filesystem Hierarchy Standard.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use slipway_secret::SecretUrl;

/// The directory for data that must survive a restart.
#[must_use]
pub fn state() -> PathBuf {
    Surroundings::of_process().state()
}

/// The directory for data that can be had again.
#[must_use]
pub fn cache() -> PathBuf {
    Surroundings::of_process().cache()
}

/// The settings of the artifact store, which dispatcher and workers share.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, serde::Serialize)]
pub struct StoreConfig {
    /// Artifact store: a directory or a URL, the same for the dispatcher and its workers
    #[arg(
        long,
        env = "SLIPWAY_STORE",
        value_name = "URL",
        hide_env_values = true,
        default_value = default_store(),
        value_parser = store
    )]
    pub store: SecretUrl,
}

fn default_store() -> String {
    state().join("artifacts").display().to_string()
}

fn store(text: &str) -> Result<SecretUrl, &'static str> {
    if text.trim().is_empty() {
        return Err("name a directory or a URL");
    }
    Ok(text.into())
}

/// The directory for a user's data; `None` without a home directory.
#[must_use]
pub fn user_data() -> Option<PathBuf> {
    Surroundings::of_process().user("XDG_DATA_HOME", ".local/share")
}

/// The directory for a user's caches; `None` without a home directory.
#[must_use]
pub fn user_cache() -> Option<PathBuf> {
    Surroundings::of_process().user("XDG_CACHE_HOME", ".cache")
}

/// The directory for a user's configuration; `None` without a home directory.
#[must_use]
pub fn user_config() -> Option<PathBuf> {
    Surroundings::of_process().user("XDG_CONFIG_HOME", ".config")
}

/// What the answer depends on.
struct Surroundings {
    home: Option<PathBuf>,
    variable: fn(&str) -> Option<OsString>,
}

impl Surroundings {
    fn of_process() -> Self {
        Self { home: std::env::home_dir(), variable: |name| std::env::var_os(name) }
    }

    fn state(&self) -> PathBuf {
        self.service("STATE_DIRECTORY", "XDG_DATA_HOME", ".local/share", "/var/lib/slipway")
    }

    fn cache(&self) -> PathBuf {
        self.service("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache", "/var/cache/slipway")
    }

    fn service(&self, named: &str, variable: &str, below_home: &str, system: &str) -> PathBuf {
        let of_service = (self.variable)(named).map(|directories| {
            // systemd separates several by colons.
            let first = directories.to_string_lossy().split(':').next().map(PathBuf::from);
            first.unwrap_or_default()
        });
        of_service
            .filter(|directory| directory.is_absolute())
            .or_else(|| self.user(variable, below_home))
            .unwrap_or_else(|| PathBuf::from(system))
    }

    fn user(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        (self.variable)(variable)
            .map(PathBuf::from)
            .and_then(absolute)
            .or_else(|| Some(self.home.clone().and_then(absolute)?.join(below_home)))
            .map(|directory| directory.join(Path::new("slipway")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_uses_the_directory_that_systemd_names() {
        let service = Surroundings {
            home: Some("/home/ci".into()),
            variable: |name| (name == "STATE_DIRECTORY").then(|| "/var/lib/ci:/other".into()),
        };
        assert_eq!(service.state(), Path::new("/var/lib/ci"));
        assert_eq!(service.cache(), Path::new("/home/ci/.cache/slipway"));
    }

    #[test]
    fn a_user_uses_its_home_and_a_process_without_one_the_system() {
        let user = Surroundings { home: Some("/home/a".into()), variable: |_| None };
        assert_eq!(user.state(), Path::new("/home/a/.local/share/slipway"));
        let relative = Surroundings { variable: |_| Some("relative".into()), ..user };
        assert_eq!(relative.cache(), Path::new("/home/a/.cache/slipway"));
        let named = Surroundings { variable: |_| Some("/data".into()), ..relative };
        assert_eq!(named.user("XDG_DATA_HOME", ".local/share"), Some("/data/slipway".into()));
        let homeless = Surroundings { home: None, variable: |_| None };
        assert_eq!(homeless.state(), Path::new("/var/lib/slipway"));
    }
}
