// SPDX-License-Identifier: Apache-2.0

//! The keys of layer records.
//!
//! *By part of the artifact*: everything that the layer is a function of. Such a record is found
//! without reading any content. *By the archive's fingerprint*: for a layer whose files are the same
//! in another artifact. Both are cryptographic digests, because users choose what goes in.
//!
//! *By outline*: what the artifact's list of entries says of its files. Its checksums can be forged,
//! so such a record is only a hint that computing the fingerprint alone is worthwhile.

use slipway_artifact::RecordKey;
use slipway_proto::Digest;
use slipway_proto::request::Compression;

use super::ASSEMBLY_VERSION;
use super::layout::{Data, Node, PlannedLayer};

/// The key of a part of an artifact as a layer, without the artifact's digest, which may not be known
/// yet.
#[derive(Debug, Clone)]
pub struct Part(RecordKey);

impl Part {
    /// Describes a part of an artifact.
    #[must_use]
    pub fn new(planned: &PlannedLayer, compression: Compression, epoch: i64) -> Self {
        let mut key = start("layer by part", compression);
        nodes(&mut key, planned, epoch, |_, _| {});
        Self(key)
    }

    /// Returns the key of this part of an artifact.
    #[must_use]
    pub fn of(&self, artifact: Digest) -> Digest {
        let mut key = self.0.clone();
        key.field(artifact.as_bytes());
        key.finish()
    }
}

/// Returns the key of a layer as the artifact's list of entries describes it, if the artifact has one.
#[must_use]
pub fn outline(planned: &PlannedLayer, compression: Compression, epoch: i64) -> Option<Digest> {
    let mut key = start("layer by outline", compression);
    let mut is_whole = false;
    nodes(&mut key, planned, epoch, |key, data| match data {
        Data::Whole => is_whole = true,
        Data::Entry(entry) => {
            key.number(entry.size);
            key.number(entry.crc32.into());
        }
        Data::Range(file) => key.number(file.size),
        Data::Text(_) => {}
    });
    (!is_whole).then(|| key.finish())
}

fn start(kind: &str, compression: Compression) -> RecordKey {
    let mut key = RecordKey::new(kind);
    key.number(ASSEMBLY_VERSION.into());
    key.field(compression.as_str().as_bytes());
    key
}

/// Adds the files of a layer, without their bytes. `content` adds what the key says about the bytes.
fn nodes(
    key: &mut RecordKey,
    planned: &PlannedLayer,
    epoch: i64,
    mut content: impl FnMut(&mut RecordKey, &Data),
) {
    key.field(&epoch.to_le_bytes());
    key.number(planned.nodes.len() as u64);
    for (path, node) in &planned.nodes {
        key.field(path.as_bytes());
        key.number(node.mode().into());
        let (user, group) = planned.owner(path);
        key.number(user.into());
        key.number(group.into());
        key.field(&node.modified().unwrap_or(epoch).to_le_bytes());
        match node {
            Node::Directory { .. } => key.field(b"directory"),
            Node::File { data: Data::Whole, .. } => key.field(b"the artifact"),
            Node::File { data: Data::Entry(entry), .. } => {
                key.field(b"entry");
                // Of several entries of one name only the last is ever unpacked.
                key.field(entry.name.as_bytes());
            }
            Node::File { data: Data::Range(file), .. } => {
                key.field(b"range");
                // Where it starts follows from the artifact and the path. It may start elsewhere in
                // another artifact that has the same file.
                key.number(file.size);
            }
            Node::Link { target } => {
                key.field(b"link");
                key.field(target.as_bytes());
            }
            Node::File { data: Data::Text(text), .. } => {
                key.field(b"text");
                key.field(text.as_bytes());
            }
        }
        if let Node::File { data, .. } = node {
            content(key, data);
        }
    }
}

/// Returns the key of a tar archive as a layer, by its fingerprint.
#[must_use]
pub fn archive(fingerprint: blake3::Hash, compression: Compression) -> Digest {
    let mut key = start("layer by archive", compression);
    key.field(fingerprint.as_bytes());
    key.finish()
}
