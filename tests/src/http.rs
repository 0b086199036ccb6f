// SPDX-License-Identifier: Apache-2.0

//! An HTTP client for tests.

/// Returns a client of its own.
///
/// # Panics
///
/// When it cannot be made.
#[must_use]
pub fn client() -> reqwest::Client {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().build().expect("the client can be made")
}

/// Returns whether something answers at an address.
pub async fn answers(client: &reqwest::Client, url: &str) -> Option<()> {
    client.get(url).send().await.ok().map(|_| ())
}
