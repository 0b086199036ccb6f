// SPDX-License-Identifier: Apache-2.0

//! The requests of a build by their names, beside how many the registry's protocol asks for.
//!
//! The OCI distribution specification moves a blob in two requests (POST, PUT) or mounts it in one,
//! and stores a manifest in one. A build reads the base's manifest because its tag may have moved,
//! mounts each layer that the registry holds already, sends its config and the layers that are new,
//! and puts its manifest twice: by digest before its record says `publishing`, by tag afterwards.

use slipway_proto::outcome::{Image, Layer, Transfer};

use super::registry::Request;
use crate::samples::NamedRequests;

/// The names, in the order in which a build needs them. The last is of requests that no build needs.
const NAMES: [&str; 9] = [
    "manifest of the base, by its tag",
    "layers mounted",
    "uploads opened",
    "uploads sent",
    "manifest, by its digest",
    "tags",
    "blobs asked for",
    "blobs fetched",
    "others",
];

/// Counts the requests of the build of an image.
pub(super) fn named(requests: &[Request], image: &Image) -> Vec<NamedRequests> {
    let mounted = image.layers.iter().filter(|layer| is_mounted(layer)).count();
    // The layers that are new, and the config.
    let sent = image.layers.len() - mounted + 1;
    let asked = [1, mounted, sent, sent, 1, image.references.len(), 0, 0, 0];
    let names = NAMES.into_iter().zip(asked);
    let count = |name| requests.iter().filter(|request| self::name(request) == name).count();
    names.map(|(name, asked)| NamedRequests { name, seen: count(name), asked }).collect()
}

/// Returns whether a layer takes one request: the registry holds the base's, and it holds those that
/// the worker found there or could mount.
fn is_mounted(layer: &Layer) -> bool {
    layer.base || layer.transfer != Transfer::Uploaded
}

fn name(request: &Request) -> &'static str {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let is_upload = path.contains("/blobs/uploads/");
    match request.method.as_str() {
        "GET" | "HEAD" if path.contains("/manifests/") => NAMES[0],
        // A mount that is refused opens an upload.
        "POST" if is_upload && query.contains("mount=") && request.status == 201 => NAMES[1],
        "POST" if is_upload => NAMES[2],
        "PUT" if is_upload => NAMES[3],
        "PUT" if path.contains("/manifests/sha256:") => NAMES[4],
        "PUT" if path.contains("/manifests/") => NAMES[5],
        "HEAD" if path.contains("/blobs/") => NAMES[6],
        "GET" if path.contains("/blobs/") => NAMES[7],
        _ => NAMES[8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_build_has_a_name() {
        let request = |method: &str, path: &str, status| Request {
            method: method.to_owned(),
            path: format!("/v2/{path}"),
            status,
        };
        let names = [
            request("GET", "base/runtime/manifests/1", 200),
            request("POST", "app/blobs/uploads/?mount=sha256%3A1&from=base", 201),
            request("POST", "app/blobs/uploads/?mount=sha256%3A1&from=app", 202),
            request("PUT", "app/blobs/uploads/17?_state=x&digest=sha256%3A1", 201),
            request("PUT", "app/manifests/sha256:1", 201),
            request("PUT", "app/manifests/latest", 201),
            request("HEAD", "app/blobs/sha256:1", 404),
            request("GET", "base/runtime/blobs/sha256:1", 200),
            request("GET", "", 200),
        ]
        .map(|request| name(&request));
        assert_eq!(names, NAMES);
    }
}
