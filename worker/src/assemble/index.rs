// SPDX-License-Identifier: Apache-2.0

//! The index of an image for several platforms (OCI image specification, "Image Index
//! Specification").

use std::collections::BTreeMap;

use serde::Serialize;
use slipway_proto::{BuildRequest, Digest, Platform};

use super::Assembled;
use super::manifest::{self, Document};

/// The media type of the indexes made here.
pub const MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The fields are in the order of the written members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Entry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: &'static str,
    digest: Digest,
    size: usize,
    platform: EntryPlatform,
}

/// What an index says of the platform of an image.
#[derive(Serialize)]
pub struct EntryPlatform {
    architecture: &'static str,
    os: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl EntryPlatform {
    /// Returns the platform of an image. The variant is that of its config, which has it from the
    /// base.
    #[must_use]
    pub fn of(platform: Platform, image: &Assembled) -> Self {
        let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap_or_default();
        let variant = config["variant"].as_str().map(str::to_owned);
        Self { architecture: platform.architecture.as_str(), os: "linux", variant }
    }
}

/// Writes the index of the images of a request, in the order in which they are given.
pub fn image_index<'a>(
    request: &BuildRequest,
    images: impl Iterator<Item = (Platform, &'a Assembled)>,
) -> Document {
    let manifests = images.map(|(platform, image)| Entry {
        media_type: manifest::MEDIA_TYPE,
        digest: image.manifest_digest,
        size: image.manifest.len(),
        platform: EntryPlatform::of(platform, image),
    });
    let index = Index {
        schema_version: 2,
        media_type: MEDIA_TYPE,
        manifests: manifests.collect(),
        annotations: &request.annotations,
    };
    let bytes = serde_json::to_vec(&index).expect("an index is always valid JSON");
    Document::new(MEDIA_TYPE, bytes.into())
}
