// SPDX-License-Identifier: Apache-2.0

//! Writes JSON documents, of which thousands a second are sent.

use std::cell::RefCell;

use bytes::Bytes;
use serde::Serialize;

/// How many bytes of the buffer are kept for the next document: most records and events have
/// between one and two KiB.
const MAX_KEPT_BUFFER: usize = 16 * 1024;

thread_local! {
    /// Where documents are written before their size is known. A buffer of maximum size for each
    /// document would make malloc trim the heap on every free.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a document. Its keys must be strings, so that it is always valid JSON.
pub(crate) fn bytes(document: &impl Serialize) -> Bytes {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        buffer.shrink_to(MAX_KEPT_BUFFER);
        serde_json::to_writer(&mut *buffer, document).expect("what is sent is always valid JSON");
        Bytes::copy_from_slice(buffer)
    })
}
