// SPDX-License-Identifier: Apache-2.0

//! An HTTP client for tests.

use crate::wait;

/// Returns a new client. A request without an answer fails after a time: otherwise a test would
/// hang without saying where.
///
/// # Panics
///
/// When it cannot be made.
#[must_use]
pub fn client() -> reqwest::Client {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().connect_timeout(wait::SOON);
    client.read_timeout(wait::LATER).build().expect("the client can be made")
}

/// Returns whether something answers at an address.
pub async fn answers(client: &reqwest::Client, url: &str) -> Option<()> {
    client.get(url).send().await.ok().map(|_| ())
}
