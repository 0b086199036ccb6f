// SPDX-License-Identifier: Apache-2.0

//! Images for several platforms: one after the other, then the index that lists them.
//!
//! In turn and not at once, because the images of an archive share its layers. The first image makes
//! them, and the others find them made, and sent.

use std::collections::HashMap;
use std::sync::Arc;

use slipway_proto::request::Base;
use slipway_proto::{BuildRequest, Digest, Failure, Platform, Reason, Reference, Stage};

use super::Pipeline;
use crate::assemble::manifest::{self, Document};
use crate::assemble::{Assembled, index};
use crate::base::ResolvedBase;
use crate::failure::StageError;
use crate::input::Input;
use crate::liveness::Liveness;
use crate::observer::Observer;
use crate::push::PushReport;
use crate::stage_clock::StageClock;

/// The image of one platform.
#[derive(Debug)]
pub struct PlatformImage {
    /// What it runs on.
    pub platform: Platform,
    /// The image.
    pub image: Arc<Assembled>,
    /// How its blobs got where they are.
    pub pushed: PushReport,
}

/// What a build made: the image of one platform, or of several with their index.
#[derive(Debug)]
pub struct Product {
    /// The images, that of the request's first platform first. Never empty.
    pub images: Vec<PlatformImage>,
    /// The index, if there is more than one image.
    pub index: Option<Document>,
}

impl Product {
    /// Makes the product of a build for one platform.
    #[must_use]
    pub fn single(platform: Platform, image: Arc<Assembled>, pushed: PushReport) -> Self {
        Self { images: vec![PlatformImage { platform, image, pushed }], index: None }
    }

    /// Makes the product of the images of a request, which has an index if they are several.
    #[must_use]
    pub fn of(request: &BuildRequest, images: Vec<PlatformImage>) -> Self {
        let parts = images.iter().map(|image| (image.platform, &*image.image));
        let index = (images.len() > 1).then(|| index::image_index(request, parts));
        Self { images, index }
    }

    /// Returns the image of the first platform.
    #[must_use]
    pub fn first(&self) -> &PlatformImage {
        self.images.first().expect("a build makes at least one image")
    }

    /// Returns the digest that names the product: that of the index, or of the only manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.index.as_ref().map_or(self.first().image.manifest_digest, |index| index.digest)
    }

    /// Returns what tags point at: the index, or the only manifest.
    #[must_use]
    pub fn document(&self) -> Document {
        let manifest = || Document {
            media_type: manifest::MEDIA_TYPE,
            bytes: self.first().image.manifest.clone(),
            digest: self.first().image.manifest_digest,
        };
        self.index.clone().unwrap_or_else(manifest)
    }

    /// Returns how many bytes of blobs and manifests were sent.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, |index| index.bytes.len() as u64);
        self.images.iter().map(|image| image.pushed.sent_bytes).sum::<u64>() + index
    }
}

/// Follows the image of one of several platforms: its lines begin with the platform.
struct OfPlatform<'a> {
    inner: &'a dyn Observer,
    platform: Platform,
    /// Whether it reports stages. Those of the first image are those of the build.
    is_first: bool,
}

impl<'a> OfPlatform<'a> {
    fn of(input: &Input<'a>, is_first: bool) -> Self {
        Self { inner: input.observer, platform: input.request.platform, is_first }
    }
}

impl Observer for OfPlatform<'_> {
    fn stage(&self, stage: Stage) {
        if self.is_first {
            self.inner.stage(stage);
        }
    }

    fn line(&self, line: &str) {
        self.inner.line(&format!("{}: {line}", self.platform));
    }

    fn liveness(&self) -> Liveness {
        self.inner.liveness()
    }

    fn holds(&self) -> bool {
        self.inner.holds()
    }
}

impl Pipeline {
    /// Makes and pushes the image of each platform, and then their index, by digest. `inputs` has
    /// one input for each platform of the request, in its order. No tag points at anything yet.
    ///
    /// # Errors
    ///
    /// When a stage fails, or a base lacks a platform. Then nothing was pushed.
    pub async fn publish_all(
        &self,
        request: &Arc<BuildRequest>,
        inputs: &[Input<'_>],
        clock: &mut StageClock,
    ) -> Result<Product, StageError> {
        if let [input] = inputs {
            let (image, pushed) = self.publish(input, clock).await?;
            return Ok(Product::single(request.platform, image, pushed));
        }
        let bases = self.resolve_all(inputs).await?;
        let mut images = Vec::new();
        for (input, base) in inputs.iter().zip(bases) {
            let observer = OfPlatform::of(input, images.is_empty());
            let (image, pushed) = self.publish(&input.with(&observer, base), clock).await?;
            images.push(PlatformImage { platform: observer.platform, image, pushed });
        }
        let product = Product::of(request, images);
        let observer = inputs[0].observer;
        let document = product.document();
        self.pusher(request, observer.liveness()).push_index(&document, observer).await?;
        observer.line(&format!("pushed the index {}", document.digest));
        Ok(product)
    }

    /// Makes the image of each platform without pushing it.
    ///
    /// # Errors
    ///
    /// When a stage fails, or a base lacks a platform.
    pub async fn assemble_all(
        &self,
        inputs: &[Input<'_>],
        clock: &mut StageClock,
    ) -> Result<Vec<Arc<Assembled>>, StageError> {
        if let [input] = inputs {
            return Ok(vec![self.assemble(input, clock).await?]);
        }
        let bases = self.resolve_all(inputs).await?;
        let mut images = Vec::new();
        for (input, base) in inputs.iter().zip(bases) {
            let observer = OfPlatform::of(input, images.is_empty());
            images.push(self.assemble(&input.with(&observer, base), clock).await?);
        }
        Ok(images)
    }

    /// Resolves the bases of all platforms, so that a build for several does not push the image of
    /// one and then fail. Reports every platform that is missing.
    async fn resolve_all(
        &self,
        inputs: &[Input<'_>],
    ) -> Result<Vec<Option<Arc<ResolvedBase>>>, StageError> {
        let mut bases = Vec::new();
        let mut missing = Vec::new();
        let mut meant: HashMap<&Reference, Digest> = HashMap::new();
        for Input { request, .. } in inputs {
            let Base::Image(reference) = &request.recipe.base else {
                bases.push(None);
                continue;
            };
            match self.resolve_base(request, reference, meant.get(reference).copied()).await {
                Ok(base) => {
                    meant.insert(reference, base.named);
                    bases.push(Some(Arc::new(base)));
                }
                Err(error) if error.lacks_platform() => missing.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        if missing.is_empty() {
            return Ok(bases);
        }
        Err(StageError::permanent(Failure::new(Reason::BaseImageNotFound, missing.join("; "))))
    }
}
