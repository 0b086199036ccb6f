// SPDX-License-Identifier: Apache-2.0

//! Base images: the manifest that a reference means now, and its contents.
//!
//! Only manifest and config are read here. They are cached by digest, so a known base costs one
//! request, for the tag. The push copies layers, and only if the target lacks them.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use slipway_proto::{Digest, Failure, Platform, Reason, Reference};

use crate::assemble::base::{BaseImage, BaseLayer};
use crate::cache::{Cache, CacheError, Wanted};
use crate::failure::{StageError, registry};
use slipway_registry::{ErrorKind, MAX_MANIFEST, Registry, RegistryError, Repository};

/// The largest config that is read, in bytes.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// The largest number of layers in a base. Container runtimes mount at most half as many
/// (overlayfs).
const MAX_LAYERS: usize = 256;

/// Replaces the start of base references, so that public names work inside a closed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    prefix: String,
    mirror: String,
}

/// A text that is not a mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mirror: write PREFIX=MIRROR, as in docker.io=registry.example/docker.io")]
pub struct ParseMirrorError(String);

impl std::str::FromStr for Mirror {
    type Err = ParseMirrorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseMirrorError(text.to_owned());
        let (prefix, mirror) = text.split_once('=').ok_or_else(refuse)?;
        let (prefix, mirror) = (prefix.trim_matches('/'), mirror.trim_matches('/'));
        // A check: both must be the start of a reference with a registry.
        let starts = |part: &str| Reference::parse_target(&format!("{part}/probe")).is_ok();
        if !starts(prefix) || !starts(mirror) {
            return Err(refuse());
        }
        Ok(Self { prefix: prefix.to_owned(), mirror: mirror.to_owned() })
    }
}

impl serde::Serialize for Mirror {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.prefix, self.mirror)
    }
}

/// Returns where a base is read from. The longest matching prefix wins.
#[must_use]
pub fn mirrored(reference: &Reference, mirrors: &[Mirror]) -> Reference {
    let text = reference.to_string();
    let rest_of = |mirror: &Mirror| {
        let rest = text.strip_prefix(&mirror.prefix)?;
        rest.starts_with(['/', ':', '@']).then(|| rest.to_owned())
    };
    mirrors
        .iter()
        .filter_map(|mirror| rest_of(mirror).map(|rest| (mirror, rest)))
        .max_by_key(|(mirror, _)| mirror.prefix.len())
        .and_then(|(mirror, rest)| format!("{}{rest}", mirror.mirror).parse().ok())
        .unwrap_or_else(|| reference.clone())
}

/// Returns the repository that a base is read from.
#[must_use]
pub fn repository(reference: &Reference, mirrors: &[Mirror]) -> Repository {
    Repository { reference: mirrored(reference, mirrors), secret: None }
}

/// A base image for one platform, and where it is read from.
#[derive(Debug, Clone)]
pub struct ResolvedBase {
    /// The image.
    pub image: Arc<BaseImage>,
    /// The repository of its blobs.
    pub repository: Repository,
}

/// Why a base image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// Its registry refused or failed.
    #[error("failed to read the base image {reference}")]
    Registry {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The registry's answer, or why there is none.
        #[source]
        source: Arc<RegistryError>,
    },
    /// It has no image for the platform.
    #[error("the base image {reference} has no image for {platform}; it has {available}")]
    NoPlatform {
        /// The base, as the recipe names it.
        reference: Reference,
        /// The platform asked for.
        platform: Platform,
        /// The available platforms.
        available: String,
    },
    /// Its documents do not describe an image.
    #[error("the base image {reference} is not an image Slipway can build on: {why}")]
    Unusable {
        /// The base, as the recipe names it.
        reference: Reference,
        /// What is wrong with its documents, for people.
        why: String,
    },
}

impl From<BaseError> for StageError {
    fn from(error: BaseError) -> Self {
        match &error {
            BaseError::Registry { reference, source } => {
                let failure = match source.kind() {
                    ErrorKind::NotFound => Failure::new(
                        Reason::BaseImageNotFound,
                        format!(
                            "there is no base image {reference} ({source}); check its name and tag"
                        ),
                    ),
                    ErrorKind::Denied => {
                        Failure::new(Reason::RegistryDenied, format!("{error}: {source}"))
                    }
                    _ => Failure::new(Reason::PullBaseImageFailed, format!("{error}: {source}")),
                };
                registry::stage_error(failure, source)
            }
            BaseError::NoPlatform { .. } => {
                Self::permanent(Failure::new(Reason::BaseImageNotFound, error.to_string()))
            }
            BaseError::Unusable { .. } => {
                Self::permanent(Failure::new(Reason::PullBaseImageFailed, error.to_string()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: Digest,
    platform: Option<IndexPlatform>,
}

#[derive(Deserialize)]
struct IndexPlatform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

/// Resolves a base reference for a platform.
///
/// # Errors
///
/// When it does not exist, lacks the platform, or is not an image.
pub async fn resolve(
    registry: &Registry,
    cache: &Cache,
    mirrors: &[Mirror],
    reference: &Reference,
    platform: Platform,
) -> Result<ResolvedBase, BaseError> {
    let repository = repository(reference, mirrors);
    let resolver = Resolver { registry, cache, repository: &repository, reference };
    let (mut document, mut digest) = resolver.manifest(&repository.reference.version()).await?;
    if !document.manifests.is_empty() {
        digest = resolver.choose(&document.manifests, platform)?;
        (document, _) = resolver.manifest(&digest.to_string()).await?;
    }
    let descriptor =
        document.config.ok_or_else(|| resolver.unusable("its manifest has no config"))?;
    let config = resolver.config(&descriptor).await?;
    let architecture = config["architecture"].as_str().unwrap_or_default();
    if architecture != platform.architecture.as_str() {
        return Err(BaseError::NoPlatform {
            reference: reference.clone(),
            platform,
            available: format!("linux/{architecture}"),
        });
    }
    if document.layers.len() > MAX_LAYERS {
        let count = document.layers.len();
        return Err(resolver.unusable(&format!("it has {count} layers, more than {MAX_LAYERS}")));
    }
    let diff_ids = config["rootfs"]["diff_ids"].as_array().map_or(&[][..], Vec::as_slice);
    if diff_ids.len() != document.layers.len() {
        return Err(resolver.unusable("its config and manifest disagree about its layers"));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (layer, diff_id) in document.layers.into_iter().zip(diff_ids) {
        let diff_id = diff_id.as_str().and_then(|text| text.parse().ok());
        layers.push(BaseLayer {
            digest: layer.digest,
            diff_id: diff_id.ok_or_else(|| resolver.unusable("a diff id does not parse"))?,
            size: layer.size,
            media_type: resolver.oci_media_type(&layer.media_type)?,
        });
    }
    let image = BaseImage { reference: reference.clone(), digest, layers, config };
    Ok(ResolvedBase { image: Arc::new(image), repository })
}

/// Returns the blob to request from the cache, and its download.
pub(crate) fn download(
    registry: &Registry,
    repository: &Repository,
    digest: Digest,
    size: u64,
) -> (Wanted, impl FnOnce() -> BoxFuture<'static, Reading> + Send + use<>) {
    let wanted = Wanted { digest, size, from: repository.reference.name() };
    let (registry, repository) = (registry.clone(), repository.clone());
    let fetch = move || {
        async move { registry.blob(&repository, digest).await.map(|pieces| pieces.boxed()) }.boxed()
    };
    (wanted, fetch)
}

/// A blob that is being read, or the reason why it cannot be read.
type Reading = Result<BoxStream<'static, Result<Bytes, RegistryError>>, RegistryError>;

struct Resolver<'a> {
    registry: &'a Registry,
    cache: &'a Cache,
    repository: &'a Repository,
    reference: &'a Reference,
}

impl Resolver<'_> {
    /// Reads a manifest. One that is named by digest may come from the cache.
    async fn manifest(&self, version: &str) -> Result<(Document, Digest), BaseError> {
        let cached = match version.parse::<Digest>() {
            Ok(digest) => {
                let bytes = self.cache.read(digest, MAX_MANIFEST as u64).await;
                bytes.map(|bytes| (bytes, digest))
            }
            Err(_tag) => None,
        };
        let (bytes, digest) = match cached {
            Some(cached) => cached,
            None => {
                let manifest = self
                    .registry
                    .shared_manifest(self.repository, version)
                    .await
                    .map_err(|source| self.failed(source))?;
                self.cache.keep(manifest.digest, manifest.bytes.clone()).await;
                (manifest.bytes, manifest.digest)
            }
        };
        let document = serde_json::from_slice(&bytes)
            .map_err(|error| self.unusable(&format!("its manifest does not parse ({error})")))?;
        Ok((document, digest))
    }

    fn choose(&self, entries: &[IndexEntry], wanted: Platform) -> Result<Digest, BaseError> {
        let platforms =
            || entries.iter().filter_map(|entry| Some((entry, entry.platform.as_ref()?)));
        platforms()
            .find(|(_, platform)| {
                platform.os == "linux" && platform.architecture == wanted.architecture.as_str()
            })
            .map(|(entry, _)| entry.digest)
            .ok_or_else(|| BaseError::NoPlatform {
                reference: self.reference.clone(),
                platform: wanted,
                available: platforms()
                    .filter(|(_, platform)| platform.os != "unknown")
                    .map(|(_, platform)| format!("{}/{}", platform.os, platform.architecture))
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<serde_json::Value, BaseError> {
        if descriptor.size > MAX_CONFIG {
            return Err(self.unusable("its config is too large"));
        }
        let Descriptor { digest, size, .. } = *descriptor;
        let (wanted, fetch) = download(self.registry, self.repository, digest, size);
        if let Err(error) = self.cache.get_or_fetch(wanted, fetch).await {
            return Err(match error {
                CacheError::Fetch(source) => {
                    BaseError::Registry { reference: self.reference.clone(), source }
                }
                CacheError::Size { .. } => self.unusable(&error.to_string()),
                other => self.failed(RegistryError::unavailable(other.to_string())),
            });
        }
        let bytes =
            self.cache.read(digest, MAX_CONFIG).await.ok_or_else(|| {
                self.failed(RegistryError::unavailable("its config vanished".into()))
            })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.unusable(&format!("its config does not parse ({error})")))
    }

    /// The media type that the same bytes have in an OCI manifest.
    fn oci_media_type(&self, media_type: &str) -> Result<String, BaseError> {
        let oci = match media_type {
            "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            "application/vnd.docker.image.rootfs.diff.tar" => {
                "application/vnd.oci.image.layer.v1.tar"
            }
            oci if oci.starts_with("application/vnd.oci.image.layer.v1.") => oci,
            other => return Err(self.unusable(&format!("it has a layer of type {other}"))),
        };
        Ok(oci.to_owned())
    }

    fn failed(&self, source: RegistryError) -> BaseError {
        BaseError::Registry { reference: self.reference.clone(), source: Arc::new(source) }
    }

    fn unusable(&self, why: &str) -> BaseError {
        BaseError::Unusable { reference: self.reference.clone(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_names_the_mirror() {
        let mirrors: Vec<Mirror> =
            ["docker.io=127.0.0.1:5000/docker.io", "docker.io/library=m.example/official"]
                .map(|text| text.parse().expect("a mirror"))
                .to_vec();
        let mirror =
            |text: &str| mirrored(&text.parse().expect("a reference"), &mirrors).to_string();
        assert_eq!(mirror("nginx:1"), "m.example/official/nginx:1");
        assert_eq!(mirror("team/app:1"), "127.0.0.1:5000/docker.io/team/app:1");
        assert_eq!(mirror("gcr.io/a/b:1"), "gcr.io/a/b:1");
        assert_eq!(mirror("docker.iox.example/a:1"), "docker.iox.example/a:1");
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for text in ["docker.io", "=x", "docker.io=", "docker.io=UPPER/x", "library=r.example"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
