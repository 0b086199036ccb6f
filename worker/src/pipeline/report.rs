// SPDX-License-Identifier: Apache-2.0

//! The outcome of a build that published its image.

use slipway_proto::BuildRequest;
use slipway_proto::outcome::{BaseImage, Image, Layer, PlatformImage, StageTime, Transfer};

use crate::assemble::ASSEMBLY_VERSION;
use crate::pipeline::{self, Product};

/// Describes what a build published, with all references of the request.
#[must_use]
pub fn outcome(request: &BuildRequest, product: &Product, stages: Vec<StageTime>) -> Image {
    let platforms: Vec<PlatformImage> = product.images.iter().map(platform_image).collect();
    let PlatformImage { platform, config_digest, base, layers, size_bytes, .. } =
        platforms[0].clone();
    Image {
        digest: product.digest(),
        pull: request.image().with_digest(product.digest()),
        references: request.references.clone(),
        superseded: Vec::new(),
        platform,
        config_digest,
        base,
        layers,
        size_bytes,
        sent_bytes: product.sent_bytes(),
        assembly_version: ASSEMBLY_VERSION,
        stages,
        platforms: if platforms.len() > 1 { platforms } else { Vec::new() },
    }
}

fn platform_image(made: &pipeline::PlatformImage) -> PlatformImage {
    let pipeline::PlatformImage { platform, image, pushed } = made;
    let base_layers = image.base.iter().flat_map(|base| &base.layers);
    let mut layers: Vec<Layer> = base_layers
        .map(|layer| Layer {
            digest: layer.digest,
            diff_id: layer.diff_id,
            size_bytes: layer.size,
            media_type: layer.media_type.clone(),
            base: true,
            transfer: Transfer::Found,
        })
        .collect();
    layers.extend(image.layers.iter().map(|layer| Layer {
        digest: layer.digest,
        diff_id: layer.diff_id,
        size_bytes: layer.size,
        media_type: layer.media_type.to_owned(),
        base: false,
        transfer: Transfer::Uploaded,
    }));
    for (layer, transfer) in layers.iter_mut().zip(&pushed.transfers) {
        layer.transfer = *transfer;
    }
    let layer_bytes: u64 = layers.iter().map(|layer| layer.size_bytes).sum();
    let base = image.base.as_ref();
    PlatformImage {
        // An image runs on what its base runs on.
        platform: base.and_then(|base| base.platform()).unwrap_or(*platform),
        digest: image.manifest_digest,
        config_digest: image.config_digest,
        base: base.map(|base| BaseImage { reference: base.reference.clone(), digest: base.digest }),
        layers,
        size_bytes: layer_bytes + image.config.len() as u64,
    }
}
