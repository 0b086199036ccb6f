// SPDX-License-Identifier: Apache-2.0

//! A registry that holds the base image, and the copies of it that umoci and buildah start from.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::counting::Counting;
use super::measure;
use super::registry::Registry;
use crate::inputs::Base;

/// The base image's repository and tag.
pub(super) const BASE: &str = "base/runtime:1";

/// A registry, and the counting proxy in front of it.
pub(super) struct Place {
    pub(super) registry: Registry,
    pub(super) proxy: Counting,
    directory: PathBuf,
}

/// The directories of buildah's storage.
pub(super) fn storage(directory: &Path) -> Vec<String> {
    let path = |name: &str| directory.join("buildah").join(name).display().to_string();
    ["buildah", "--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "overlay"]
        .map(str::to_owned)
        .to_vec()
}

/// Makes a command line of words.
pub(super) fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Place {
    /// Starts an empty registry.
    pub(super) async fn empty(directory: &Path) -> anyhow::Result<Self> {
        let registry = Registry::start(&directory.join("registry")).await?;
        let proxy = Counting::before(&registry.address).await?;
        Ok(Self { registry, proxy, directory: directory.to_owned() })
    }

    /// Starts a registry and puts the base image into it.
    pub(super) async fn with_base(directory: &Path, base: &Base) -> anyhow::Result<Self> {
        let place = Self::empty(directory).await?;
        let from = format!("oci:{}:base", base.layout.display());
        let to = format!("docker://{}/{BASE}", place.registry.address);
        let copy = line(&["skopeo", "copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
        measure::run(directory, vec![copy]).await.context("the base image cannot be pushed")?;
        Ok(place)
    }

    /// Gives umoci and buildah the base image beforehand, under the registry's address and under the
    /// proxy's.
    pub(super) async fn prepare_peers(&self, storage: &[String]) -> anyhow::Result<()> {
        for host in [&self.registry.address, &self.proxy.address] {
            let base = format!("docker://{host}/{BASE}");
            let to = format!("oci:{}:base", self.template(host).display());
            let copy = line(&["skopeo", "copy", "--quiet", "--src-tls-verify=false", &base, &to]);
            let pull = line(&["pull", "--quiet", "--tls-verify=false", &base]);
            let pull = [storage, &pull].concat();
            measure::run(&self.directory, vec![copy, pull])
                .await
                .context("the base image cannot be copied for umoci and buildah")?;
        }
        Ok(())
    }

    /// Returns the layout that holds the base image from that address.
    pub(super) fn template(&self, host: &str) -> PathBuf {
        self.directory.join(format!("layout-{}", host.replace(':', "-")))
    }
}
