// SPDX-License-Identifier: Apache-2.0

//! Writing documents of which thousands a second are sent.

use bytes::Bytes;
use serde::Serialize;

/// Where writing begins: most records and events have between one and two KiB, and a buffer that
/// grows from nothing is copied four times on the way there.
const USUAL: usize = 2048;

/// Writes a document whose keys are strings, so that it is always valid JSON.
pub(crate) fn bytes(document: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut bytes, document).expect("what is sent is always valid JSON");
    bytes.into()
}
