// SPDX-License-Identifier: Apache-2.0

//! The failure of a request about what is stored.
//!
//! Separate from [`SetupError`](crate::topology::SetupError), because such a request may be
//! repeated at any time, and cannot find a wrong setting.

use std::error::Error;

/// The server did not answer a request about a stream, a bucket or a consumer, or refused it.
#[derive(Debug, thiserror::Error)]
#[error("failed to ask NATS about {what}")]
pub struct QueryError {
    what: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl QueryError {
    /// Makes an error from the object of the request, as in "the list of pools", and its cause.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }

    /// The same about a stream.
    pub(crate) fn of_stream(name: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(format!("the stream {name}"), source)
    }

    /// Returns what went wrong.
    pub(crate) fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}
