// SPDX-License-Identifier: Apache-2.0

//! The base of an image, as far as assembly needs it: names, layers and config, but no registry.

use slipway_proto::{Digest, Platform, Reference};

/// A base image for one platform.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// The reference that the recipe names, before any mirror.
    pub reference: Reference,
    /// The digest of the manifest for the platform.
    pub digest: Digest,
    /// The layers, lowest first.
    pub layers: Vec<BaseLayer>,
    /// The config, unchanged.
    pub config: serde_json::Value,
}

impl BaseImage {
    /// Returns the platform that its config names.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let text = |member: &str| self.config.get(member).and_then(serde_json::Value::as_str);
        Platform::of_image(text("architecture")?, text("variant"))
    }
}

/// A layer of a base image.
#[derive(Debug, Clone)]
pub struct BaseLayer {
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// The digest of the tar archive.
    pub diff_id: Digest,
    /// The number of stored bytes.
    pub size: u64,
    /// The media type of the stored bytes in an OCI manifest.
    pub media_type: String,
}
