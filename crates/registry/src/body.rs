// SPDX-License-Identifier: Apache-2.0

//! Reads the body of an answer into memory, up to a bound: a registry may send anything.

use bytes::Bytes;
use futures::StreamExt as _;

use super::error::RegistryError;

/// Reads a whole body.
///
/// # Errors
///
/// When it has more than `limit` bytes, or the connection breaks.
pub(super) async fn read_bounded(
    response: reqwest::Response,
    limit: usize,
    what: &str,
) -> Result<Bytes, RegistryError> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| RegistryError::from_transport(what, error))?;
        if bytes.len() + chunk.len() > limit {
            return Err(RegistryError::malformed(format!("{what} is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}
