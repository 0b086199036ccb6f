// SPDX-License-Identifier: Apache-2.0

//! What a succeeded build made: the image, its layers and how each of them reached the registry.

use serde::{Deserialize, Serialize};

use crate::{BuildId, Digest, Platform, Reference, Stage};

/// The image a build published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of the manifest.
    pub digest: Digest,
    /// Registry and repository with that digest: what to hand to `podman pull`.
    pub pull: Reference,
    /// Every reference that was tagged.
    pub references: Vec<Reference>,
    /// References that were left to a build which was submitted later (`tag_superseded`).
    pub superseded: Vec<SupersededTag>,
    /// What the image runs on.
    pub platform: Platform,
    /// The digest of the config.
    pub config_digest: Digest,
    /// The base image, unless the image starts from nothing.
    pub base: Option<BaseImage>,
    /// All layers, the base's first.
    pub layers: Vec<Layer>,
    /// The stored size of layers and config, in bytes.
    pub size_bytes: u64,
    /// How many bytes of blobs and manifests were sent to registries.
    pub sent_bytes: u64,
    /// The version of the assembly behaviour that digests depend on.
    pub assembly_version: u32,
    /// Wall-clock time of each stage, in order.
    pub stages: Vec<StageTime>,
    /// The images of all platforms, if there are several. Then `digest` and `pull` name their
    /// index, and `platform`, `config_digest`, `base`, `layers` and `size_bytes` describe the first of
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<PlatformImage>,
}

/// One of the images of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    /// What it runs on.
    pub platform: Platform,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of its config.
    pub config_digest: Digest,
    /// Its base image, unless it starts from nothing.
    pub base: Option<BaseImage>,
    /// All its layers, the base's first.
    pub layers: Vec<Layer>,
    /// The stored size of its layers and config, in bytes.
    pub size_bytes: u64,
}

/// A reference that belongs to a build that was submitted later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededTag {
    /// The reference.
    pub reference: Reference,
    /// The build that owns it.
    pub by: BuildId,
}

/// The base image that a build resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseImage {
    /// The reference as the environment names it, before any mirror.
    pub reference: Reference,
    /// The digest of the base's manifest for the platform.
    pub digest: Digest,
}

/// One layer of a published image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The stored size in bytes.
    pub size_bytes: u64,
    /// The media type in the manifest.
    pub media_type: String,
    /// Whether the layer came from the base image.
    pub base: bool,
    /// How it reached the registry of the first reference.
    pub transfer: Transfer,
}

/// How a blob got into the target repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Mounted from another repository of the same registry; no bytes moved.
    Mounted,
    /// It was already there.
    Found,
    /// Its bytes were sent.
    Uploaded,
}

/// How long a stage took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// Its wall-clock time in microseconds.
    pub duration_us: u64,
}
