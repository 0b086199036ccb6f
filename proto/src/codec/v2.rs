// SPDX-License-Identifier: Apache-2.0

//! Version 2 of the request: without a choice of compression.

use super::v1;
use crate::BuildId;
use crate::request::Compression;

/// The fields of version 1 and those that came with version 2, in its order, which is its format:
/// one struct within another has the bytes of its fields.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct BuildRequest {
    first: v1::BuildRequest,
    queue_timeout_s: u32,
    stall_timeout_s: u32,
    supersede_key: Option<String>,
    retry_of: Option<BuildId>,
}

impl From<BuildRequest> for crate::BuildRequest {
    fn from(older: BuildRequest) -> Self {
        Self {
            queue_timeout_s: older.queue_timeout_s,
            stall_timeout_s: older.stall_timeout_s,
            supersede_key: older.supersede_key,
            retry_of: older.retry_of,
            compression: Compression::default(),
            ..older.first.into()
        }
    }
}

#[cfg(test)]
impl From<crate::BuildRequest> for BuildRequest {
    fn from(newer: crate::BuildRequest) -> Self {
        Self {
            queue_timeout_s: newer.queue_timeout_s,
            stall_timeout_s: newer.stall_timeout_s,
            supersede_key: newer.supersede_key.clone(),
            retry_of: newer.retry_of,
            first: newer.into(),
        }
    }
}
