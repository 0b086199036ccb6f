// SPDX-License-Identifier: Apache-2.0

//! The registries that tests can start: Debian's docker-registry 2.8, and others where
//! `SLIPWAY_TEST_REGISTRIES` names their programs (`dev/registry.sh` compiles them).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Process, command};

/// A program that is a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryProgram {
    /// Debian's docker-registry 2.8.
    DockerRegistry,
    /// Distribution 3, the successor of docker-registry.
    Distribution(PathBuf),
    /// The registry of go-containerregistry, which keeps everything in memory, and has neither users
    /// nor TLS.
    Ggcr(PathBuf),
}

impl RegistryProgram {
    /// Returns docker-registry, and those that `SLIPWAY_TEST_REGISTRIES` names in the form
    /// `distribution=PATH,ggcr=PATH`.
    ///
    /// # Panics
    ///
    /// When the variable has another form.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let named = std::env::var("SLIPWAY_TEST_REGISTRIES").unwrap_or_default();
        let others = named.split(',').filter(|entry| !entry.is_empty()).map(|entry| {
            match entry.split_once('=') {
                Some(("distribution", path)) => Self::Distribution(path.into()),
                Some(("ggcr", path)) => Self::Ggcr(path.into()),
                _ => panic!(
                    "SLIPWAY_TEST_REGISTRIES has `{entry}`, not distribution=PATH or ggcr=PATH"
                ),
            }
        });
        std::iter::once(Self::DockerRegistry).chain(others).collect()
    }

    /// Returns whether it can ask for credentials, and speak TLS.
    #[must_use]
    pub fn has_users(&self) -> bool {
        !matches!(self, Self::Ggcr(_))
    }

    /// Starts it on an address, with its data in a directory, and more sections of its
    /// configuration.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(&self, directory: &Path, address: &str, more: &Value) -> Process {
        std::fs::create_dir_all(directory).expect("the directory can be made");
        let log = directory.join("registry.log");
        let (name, mut registry) = match self {
            Self::DockerRegistry => ("docker-registry", command("docker-registry")),
            Self::Distribution(path) => ("distribution", command(path)),
            Self::Ggcr(path) => {
                let mut registry = command(path);
                let port = address.rsplit_once(':').expect("an address has a port").1;
                registry.args(["-port", port]);
                return Process::start("ggcr", registry, &log);
            }
        };
        // The secret lets an upload's session survive a restart.
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory.join("storage")}},
            "http": {"addr": address, "secret": "tests"},
        });
        merge(&mut config, more);
        // Every JSON document is YAML.
        let path = directory.join("config.yml");
        std::fs::write(&path, config.to_string()).expect("the configuration can be written");
        registry.arg("serve").arg(&path);
        Process::start(name, registry, &log)
    }
}

/// Adds the members of an object, and of the objects in it, to another.
fn merge(into: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) if into[name].is_object() => merge(&mut into[name], value),
            _ => into[name] = value.clone(),
        }
    }
}
