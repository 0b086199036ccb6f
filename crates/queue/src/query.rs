// SPDX-License-Identifier: Apache-2.0

//! The failure of a question to the server.
//!
//! Apart from [`SetupError`](crate::topology::TopologyError): a question changes nothing, may be asked
//! again at any time, and cannot find that a setting is wrong.

/// The server did not answer a question about a stream, a bucket or a consumer, or refused it.
#[derive(Debug, thiserror::Error)]
#[error("failed to ask NATS about {what}")]
pub struct QueryError {
    what: String,
    #[source]
    source: async_nats::Error,
}

impl QueryError {
    /// Says what was asked about, as in "the stream BUILDS", and what went wrong.
    pub fn new(what: impl Into<String>, source: impl Into<async_nats::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}
