// SPDX-License-Identifier: Apache-2.0

//! The compared programs, the image that each builds, and the commands of those that are not part
//! of Slipway.

use std::path::Path;

use super::place::{BASE, Place, line};

pub(super) const FLOOR: &str = "floor";
pub(super) const QUEUE: &str = "Slipway, queue";
pub(super) const LOCAL: &str = "Slipway --local";
pub(super) const UMOCI: &str = "umoci + skopeo";
pub(super) const BUILDAH: &str = "buildah";
/// The step before the clock of the floor starts.
pub(super) const POST: &str = "POST before the floor";
/// The step before the clock of a build through the queue starts.
pub(super) const UPLOAD: &str = "upload to the dispatcher";

/// A program that builds images, or the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// One PUT of the same bytes, by curl.
    Floor,
    /// Slipway's dispatcher, queue and worker.
    Queue,
    /// `slipway build --local`.
    Local,
    /// umoci, and skopeo to push.
    Umoci,
    /// buildah.
    Buildah,
}

impl Variant {
    /// Returns its name in samples and reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Floor => FLOOR,
            Self::Queue => QUEUE,
            Self::Local => LOCAL,
            Self::Umoci => UMOCI,
            Self::Buildah => BUILDAH,
        }
    }
}

/// One image to build.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    /// The scenario.
    pub(super) scenario: &'static str,
    /// The round; 0 goes through the proxy.
    pub(super) round: u32,
    /// The position in the round.
    pub(super) slot: usize,
    /// Where it is pushed to.
    pub(super) place: &'a Place,
    /// The address of the base image's registry, if it is another one.
    pub(super) base_host: Option<&'a str>,
    /// The artifact.
    pub(super) file: &'a Path,
    /// The repository in the registry; it gets the tag `latest`.
    pub(super) repository: &'a str,
    /// The worker that builds it, by its pool, or the cache of `--local`.
    pub(super) pool: &'a str,
}

impl Task<'_> {
    pub(super) fn host(&self) -> &str {
        if self.round == 0 { &self.place.proxy.address } else { &self.place.registry.address }
    }

    pub(super) fn base(&self) -> String {
        format!("{}/{BASE}", self.base_host.unwrap_or_else(|| self.host()))
    }

    pub(super) fn target(&self) -> String {
        format!("{}/{}:latest", self.host(), self.repository)
    }

    fn launch(&self) -> (String, Vec<String>) {
        let name = self.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let path = format!("/app/{name}");
        match name.rsplit_once('.') {
            Some((_, "jar")) => (path.clone(), line(&["java", "-jar", &path])),
            _ => (path.clone(), vec![path]),
        }
    }
}

/// Returns the commands by which umoci and skopeo build from a layout that holds the base image.
pub(super) fn umoci(task: &Task<'_>, layout: &Path) -> Vec<Vec<String>> {
    let (path, launch) = task.launch();
    let (file, image) = (task.file.display().to_string(), layout.display().to_string());
    let (base, new) = (format!("{image}:base"), format!("{image}:new"));
    let mut config = line(&["umoci", "config", "--image", &new]);
    for word in &launch {
        config.extend(line(&["--config.entrypoint", word]));
    }
    let (from, to) = (format!("oci:{new}"), format!("docker://{}", task.target()));
    vec![
        line(&["umoci", "insert", "--image", &base, "--tag", "new", &file, &path]),
        config,
        line(&["skopeo", "copy", "--quiet", "--dest-tls-verify=false", &from, &to]),
    ]
}

/// Returns the commands by which buildah builds from a storage that holds the base image.
pub(super) fn buildah(
    task: &Task<'_>,
    storage: &[String],
    container: &str,
) -> anyhow::Result<Vec<Vec<String>>> {
    let (path, launch) = task.launch();
    let buildah = |words: &[&str]| [storage, &line(words)].concat();
    let entrypoint = serde_json::to_string(&launch)?;
    let (file, to) = (task.file.display().to_string(), format!("docker://{}", task.target()));
    Ok(vec![
        buildah(&["from", "--name", container, "--pull-never", &task.base()]),
        buildah(&["copy", "--quiet", container, &file, &path]),
        buildah(&["config", "--entrypoint", &entrypoint, container]),
        buildah(&["commit", "--quiet", container, container]),
        buildah(&["push", "--quiet", "--tls-verify=false", container, &to]),
    ])
}
