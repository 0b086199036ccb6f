// SPDX-License-Identifier: Apache-2.0

//! The documents of a base image: indexes, manifests, and the platforms that they name.
//!
//! Registries hold what thirty tools wrote in ten years. So everything that the specification calls
//! optional is optional here, and what is not an image of its own is left out.

use serde::Deserialize;
use serde_json::Value;
use slipway_proto::{ArtifactKind, BuildRequest, Digest, Platform};

/// A manifest, or an index over several.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<IndexEntry>,
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An entry of an index. Its platform is optional (OCI image index, "platform").
#[derive(Deserialize)]
pub(super) struct IndexEntry {
    pub(super) digest: Digest,
    #[serde(default)]
    platform: Option<NamedPlatform>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

/// The platform that a base is asked for.
#[derive(Debug, Clone, Copy)]
pub struct WantedPlatform {
    /// The platform.
    pub platform: Platform,
    /// Whether it is the least that an executable runs on, see [`Platform::rank`].
    pub from_executable: bool,
}

impl WantedPlatform {
    /// Returns the platform that a request asks of its base.
    #[must_use]
    pub fn of(request: &BuildRequest) -> Self {
        let from_executable = request.artifact.kind == ArtifactKind::Binary;
        Self { platform: request.platform, from_executable }
    }
}

/// A platform as a document names it, as far as it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct NamedPlatform {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
}

impl Document {
    /// Returns whether it lists manifests, instead of being one.
    pub(super) fn is_index(&self) -> bool {
        let says = |kind: &str| kind.contains(".image.index.") || kind.contains(".manifest.list.");
        !self.manifests.is_empty() || self.media_type.as_deref().is_some_and(says)
    }

    /// Returns whether it is in the format that Docker wrote before 2016, which names neither a
    /// config nor the digests of layers before compression.
    pub(super) fn is_schema_1(&self) -> bool {
        self.schema_version == Some(1) && self.config.is_none()
    }

    /// Returns the entries of an index that can be images: not the attestations that BuildKit lists
    /// beside them.
    pub(super) fn into_images(self) -> impl Iterator<Item = IndexEntry> {
        self.manifests.into_iter().filter(|entry| !entry.is_attestation())
    }
}

impl IndexEntry {
    fn is_attestation(&self) -> bool {
        let annotations = self.annotations.as_ref();
        annotations.is_some_and(|all| all.contains_key("vnd.docker.reference.type"))
            || self.platform.as_ref().is_some_and(|platform| {
                platform.os.as_deref() == Some("unknown")
                    && platform.architecture.as_deref() == Some("unknown")
            })
    }

    /// Returns its platform, if the entry says enough to decide by.
    pub(super) fn platform(&self) -> Option<&NamedPlatform> {
        self.platform.as_ref().filter(|platform| platform.is_complete())
    }
}

impl NamedPlatform {
    /// Reads the platform of an image's config. One that names no system is for Linux: Docker wrote
    /// such when there was no other.
    pub(super) fn of_config(config: &Value) -> Self {
        let text =
            |name: &str| config[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            os: text("os").or_else(|| Some("linux".to_owned())),
            architecture: text("architecture"),
            variant: text("variant"),
        }
    }

    /// Adds the variant that an index names for it, if its config names none.
    pub(super) fn with_variant_of(mut self, named: Option<&Self>) -> Self {
        if self.variant.is_none() {
            self.variant = named.and_then(|named| named.variant.clone());
        }
        self
    }

    fn is_complete(&self) -> bool {
        let names = |part: &Option<String>| part.as_ref().is_some_and(|text| !text.is_empty());
        names(&self.os) && names(&self.architecture)
    }

    /// Returns how well an image of this platform serves the one that is asked for, lower being
    /// better; `None` if not at all.
    pub(super) fn rank(&self, wanted: WantedPlatform) -> Option<u8> {
        let os = self.os.as_deref().unwrap_or_default();
        if !os.eq_ignore_ascii_case("linux") {
            return None;
        }
        let architecture = self.architecture.as_deref()?;
        let own = Platform::of_image(architecture, self.variant.as_deref())?;
        wanted.platform.rank(own, wanted.from_executable)
    }
}

impl std::fmt::Display for NamedPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".to_owned());
        write!(f, "{}/{}", part(&self.os), part(&self.architecture))?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// Returns the media type that the bytes of a base's layer have in an OCI manifest; `None` if it is
/// no layer of an image.
///
/// Layers that were not to be distributed are ordinary ones: the specification deprecates the
/// difference, and a registry that has their bytes can give them.
pub(super) fn layer_type(media_type: &str) -> Option<String> {
    let oci = |rest: &str| format!("application/vnd.oci.image.layer.v1.{rest}");
    let docker = media_type
        .strip_prefix("application/vnd.docker.image.rootfs.diff.")
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff."));
    if let Some(rest) = docker {
        return match rest {
            "tar" => Some(oci("tar")),
            "tar.gzip" => Some(oci("tar+gzip")),
            // BuildKit 0.10 and 0.11 wrote it.
            "tar.zstd" => Some(oci("tar+zstd")),
            _ => None,
        };
    }
    let rest = media_type.strip_prefix("application/vnd.oci.image.layer.v1.").or_else(|| {
        media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.")
    })?;
    Some(oci(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_layers_have_their_names_in_oci() {
        for (docker, oci) in [
            ("docker.image.rootfs.diff.tar", "tar"),
            ("docker.image.rootfs.diff.tar.gzip", "tar+gzip"),
            ("docker.image.rootfs.diff.tar.zstd", "tar+zstd"),
            ("docker.image.rootfs.foreign.diff.tar.gzip", "tar+gzip"),
            ("oci.image.layer.v1.tar+zstd", "tar+zstd"),
            ("oci.image.layer.v1.tar+gzip+encrypted", "tar+gzip+encrypted"),
            ("oci.image.layer.nondistributable.v1.tar+gzip", "tar+gzip"),
        ] {
            let found = layer_type(&format!("application/vnd.{docker}"));
            let expected = format!("application/vnd.oci.image.layer.v1.{oci}");
            assert_eq!(found, Some(expected), "{docker}");
        }
        for other in [
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.xz",
            "application/vnd.in-toto+json",
            "",
        ] {
            assert_eq!(layer_type(other), None, "{other}");
        }
    }

    #[test]
    fn a_platform_that_is_half_named_is_not_named() {
        let entry = |platform: &str| -> IndexEntry {
            let digest = Digest::of(b"");
            serde_json::from_str(&format!(r#"{{"digest": "{digest}", "platform": {platform}}}"#))
                .expect("an entry")
        };
        for platform in ["null", "{}", r#"{"os": "linux"}"#, r#"{"os": "", "architecture": ""}"#] {
            assert!(entry(platform).platform().is_none(), "{platform}");
        }
        let named = entry(r#"{"os": "linux", "architecture": "arm", "variant": "v7"}"#);
        assert_eq!(named.platform().map(ToString::to_string).as_deref(), Some("linux/arm/v7"));
        assert!(entry(r#"{"os": "unknown", "architecture": "unknown"}"#).is_attestation());
    }
}
