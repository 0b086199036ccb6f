// SPDX-License-Identifier: Apache-2.0

//! The keys under which it is remembered what a layer came to.
//!
//! By its part of the artifact: everything that the layer is a function of, so that nothing of the
//! artifact's content need be read to know it again. By its diff id: for a layer whose files are
//! the same in another artifact. Both are cryptographic digests, since people choose what goes in.

use slipway_proto::Digest;
use slipway_proto::request::Compression;

use super::ASSEMBLY_VERSION;
use super::layout::{Data, Node, PlannedLayer};
use crate::known::Key;

/// Returns the key of a part of an artifact as a layer.
#[must_use]
pub fn part(
    planned: &PlannedLayer,
    artifact: Digest,
    compression: Compression,
    epoch: i64,
) -> Digest {
    let mut key = Key::new("layer by part");
    key.number(ASSEMBLY_VERSION.into());
    key.field(compression.as_str().as_bytes());
    key.field(&epoch.to_le_bytes());
    key.field(artifact.as_bytes());
    key.number(planned.nodes.len() as u64);
    for (path, node) in &planned.nodes {
        key.field(path.as_bytes());
        key.number(node.mode().into());
        let (user, group) = planned.owner(path);
        key.number(user.into());
        key.number(group.into());
        match node {
            Node::Directory => key.field(b"directory"),
            Node::File { data: Data::Whole, .. } => key.field(b"the artifact"),
            Node::File { data: Data::Entry(entry), .. } => {
                key.field(b"entry");
                // No two entries of an archive have one name.
                key.field(entry.name.as_bytes());
            }
        }
    }
    key.finish()
}

/// Returns the key of a tar archive as a layer.
#[must_use]
pub fn content(diff_id: Digest, compression: Compression) -> Digest {
    let mut key = Key::new("layer by diff id");
    key.number(ASSEMBLY_VERSION.into());
    key.field(compression.as_str().as_bytes());
    key.field(diff_id.as_bytes());
    key.finish()
}
