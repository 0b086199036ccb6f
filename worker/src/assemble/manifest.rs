// SPDX-License-Identifier: Apache-2.0

//! The manifest of an image (OCI image specification, "Image Manifest Specification").

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use slipway_proto::{BuildRequest, Digest};

use super::base::BaseImage;
use super::layer::Layer;

/// The media type of the manifests made here.
pub const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// A manifest or an index, as registries store it.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
}

impl Document {
    /// Digests a document.
    #[must_use]
    pub fn new(media_type: &'static str, bytes: Bytes) -> Self {
        let digest = Digest::of(&bytes);
        Self { media_type, bytes, digest }
    }
}

/// The fields are in the order of the written members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

/// Writes the manifest.
#[must_use]
pub fn image_manifest(
    request: &BuildRequest,
    base: Option<&BaseImage>,
    layers: &[Arc<Layer>],
    config_digest: Digest,
    config_size: usize,
) -> Bytes {
    let mut annotations = BTreeMap::new();
    let mut descriptors = Vec::new();
    if let Some(base) = base {
        annotations
            .insert("org.opencontainers.image.base.name".to_owned(), base.reference.to_string());
        annotations
            .insert("org.opencontainers.image.base.digest".to_owned(), base.digest.to_string());
        descriptors.extend(base.layers.iter().map(|layer| Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest,
            size: layer.size,
        }));
    }
    annotations.extend(request.annotations.clone());
    descriptors.extend(layers.iter().map(|layer| Descriptor {
        media_type: layer.media_type.to_owned(),
        digest: layer.digest,
        size: layer.size,
    }));
    let manifest = Manifest {
        schema_version: 2,
        media_type: MEDIA_TYPE,
        config: Descriptor {
            media_type: CONFIG_TYPE.to_owned(),
            digest: config_digest,
            size: config_size as u64,
        },
        layers: descriptors,
        annotations,
    };
    serde_json::to_vec(&manifest).expect("a manifest is always valid JSON").into()
}
