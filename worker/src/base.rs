// SPDX-License-Identifier: Apache-2.0

//! Base images: the manifest that a reference means now, and its contents.
//!
//! Only manifest and config are read here. They are cached by digest, so a known base costs one
//! request, for the tag. The push copies layers, and only if the target lacks them.

mod document;
mod error;
mod mirror;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use slipway_proto::{Digest, Reference};

use crate::assemble::base::{BaseImage, BaseLayer};
use crate::cache::{self, Cache, CacheError};
pub use document::WantedPlatform;
use document::{Descriptor, Document, IndexEntry, NamedPlatform, layer_type};
pub use error::BaseError;
pub use mirror::{Mirror, ParseMirrorError, mirrored};
use slipway_registry::{MAX_MANIFEST, Registry, RegistryError, Repository};

/// The largest config that is read, in bytes.
const MAX_CONFIG: u64 = 16 * 1024 * 1024;

/// The most manifests and indexes that are read to find one image.
const MAX_MANIFESTS: usize = 16;

/// The largest number of layers in a base. Container runtimes mount at most half as many
/// (overlayfs).
const MAX_LAYERS: usize = 256;

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
    /// The digest of what the reference meant: that of an index, if it named one.
    pub named: Digest,
}

/// Resolves a base reference for a platform. `named` is what it meant a moment ago, for another
/// platform of the same build, whose images must not differ because a tag moved between them.
///
/// # Errors
///
/// When it does not exist, lacks the platform, or is not an image.
pub async fn resolve(
    registry: &Registry,
    cache: &Cache,
    mirrors: &[Mirror],
    reference: &Reference,
    platform: WantedPlatform,
    named: Option<Digest>,
) -> Result<ResolvedBase, BaseError> {
    let repository = repository(reference, mirrors);
    let resolver = Resolver { registry, cache, repository: &repository, reference };
    let Found { document, digest, config, named } = resolver.find(platform, named).await?;
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
            media_type: layer_type(&layer.media_type).ok_or_else(|| {
                resolver.unusable(&format!("it has a layer of type {}", layer.media_type))
            })?,
        });
    }
    let image = BaseImage { reference: reference.clone(), digest, layers, config };
    Ok(ResolvedBase { image: Arc::new(image), repository, named })
}

/// Returns the blob to request from the cache, and its download.
pub(crate) fn download(
    registry: &Registry,
    repository: &Repository,
    digest: Digest,
    size: u64,
) -> (cache::Wanted, impl FnOnce() -> BoxFuture<'static, Reading> + Send + use<>) {
    let wanted = cache::Wanted { digest, size, from: repository.reference.name() };
    let (registry, repository) = (registry.clone(), repository.clone());
    let fetch = move || {
        async move { registry.blob(&repository, digest).await.map(|pieces| pieces.boxed()) }.boxed()
    };
    (wanted, fetch)
}

/// A blob that is being read, or the reason why it cannot be read.
type Reading = Result<BoxStream<'static, Result<Bytes, RegistryError>>, RegistryError>;

/// An image that was found.
struct Found {
    document: Document,
    digest: Digest,
    config: serde_json::Value,
    /// The digest of what the reference meant.
    named: Digest,
}

/// A document that may lead to the image.
struct Unread {
    /// The document, if it was read already, and its digest.
    document: Option<(Document, Digest)>,
    /// The entry of an index that names it.
    named: Option<IndexEntry>,
}

/// Returns the entries of an index to look into for a platform, the best first: the one that serves
/// it best, wherever it stands, or else all that name none. Adds the other platforms that it names.
fn candidates(
    index: Document,
    wanted: WantedPlatform,
    others: &mut Vec<String>,
) -> Vec<IndexEntry> {
    let (named, unnamed): (Vec<IndexEntry>, Vec<IndexEntry>) =
        index.into_images().partition(|entry| entry.platform().is_some());
    let rank = |entry: &IndexEntry| entry.platform().and_then(|named| named.rank(wanted));
    let names: Vec<String> =
        named.iter().filter_map(|entry| entry.platform().map(ToString::to_string)).collect();
    // The first of those that serve equally well.
    let best = named.into_iter().filter_map(|entry| Some((rank(&entry)?, entry)));
    if let Some((_, entry)) = best.min_by_key(|(rank, _)| *rank) {
        return vec![entry];
    }
    others.extend(names);
    unnamed
}

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

    /// Finds the image for a platform: the manifest itself, or one that the index names for it.
    /// Where no entry names the platform, those that name none are looked into, because only their
    /// configs tell. An entry may be an index again.
    async fn find(
        &self,
        wanted: WantedPlatform,
        named: Option<Digest>,
    ) -> Result<Found, BaseError> {
        let version =
            named.map_or_else(|| self.repository.reference.version(), |digest| digest.to_string());
        let first = self.manifest(&version).await?;
        let meant = first.1;
        let is_single = !first.0.is_index();
        let mut unread = vec![Unread { document: Some(first), named: None }];
        let mut others: Vec<String> = Vec::new();
        for _ in 0..MAX_MANIFESTS {
            let Some(Unread { document, named }) = unread.pop() else { break };
            let (document, digest) = match (document, &named) {
                (Some(first), _) => first,
                (None, Some(entry)) => self.manifest(&entry.digest.to_string()).await?,
                (None, None) => break,
            };
            if document.is_index() {
                // The first is read first.
                let next = candidates(document, wanted, &mut others).into_iter().rev();
                unread.extend(next.map(|entry| Unread { document: None, named: Some(entry) }));
                continue;
            }
            let config = self.config_of(&document).await?;
            let entry = named.as_ref().and_then(IndexEntry::platform);
            let platform = NamedPlatform::of_config(&config).with_variant_of(entry);
            if platform.rank(wanted).is_some() {
                return Ok(Found { document, digest, config, named: meant });
            }
            others.push(platform.to_string());
        }
        let reference = self.reference.clone();
        if is_single {
            let actual = others.concat();
            return Err(BaseError::OtherPlatform { reference, platform: wanted.platform, actual });
        }
        others.dedup();
        let available =
            if others.is_empty() { "no image at all".to_owned() } else { others.join(", ") };
        Err(BaseError::NoPlatform { reference, platform: wanted.platform, available })
    }

    /// Reads the config of a manifest.
    async fn config_of(&self, document: &Document) -> Result<serde_json::Value, BaseError> {
        if document.is_schema_1() {
            return Err(self.unusable(
                "it is in the format that Docker wrote before 2016 (schema 1); copy it once with a \
                current tool, as `skopeo copy --format oci` does",
            ));
        }
        let config = document.config.as_ref();
        self.config(config.ok_or_else(|| self.unusable("its manifest has no config"))?).await
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

    fn failed(&self, source: RegistryError) -> BaseError {
        BaseError::Registry { reference: self.reference.clone(), source: Arc::new(source) }
    }

    fn unusable(&self, why: &str) -> BaseError {
        BaseError::Unusable { reference: self.reference.clone(), why: why.to_owned() }
    }
}
