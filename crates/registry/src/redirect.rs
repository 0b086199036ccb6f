// SPDX-License-Identifier: Apache-2.0

//! Sends one request, wherever the registry redirects it to.
//!
//! Not left to the HTTP client: that one turns a redirected PUT into a GET, whose answer would look
//! like a success, and follows from TLS to plain HTTP.

use std::time::Duration;

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderName, Method, StatusCode};
use reqwest::{Request, RequestBuilder, Response, Url};

use super::RegistryError;
use super::transport::Registry;
use super::trust::{TlsFailure, tls_failure};

/// How often one request is redirected: as often as by browsers and curl.
const MAX_REDIRECTS: u32 = 10;
/// How long a failure in plain HTTP waits to find out whether the other side wants TLS.
const PROBED_WITHIN: Duration = Duration::from_secs(5);
/// What only the registry itself may see.
const ITS_OWN: [HeaderName; 1] = [AUTHORIZATION];

impl Registry {
    /// Sends a request for a registry and returns the answer, whatever it is. Reads follow every
    /// redirect; writes follow those that keep their method. What authorizes a request stays with
    /// the host that it was made for.
    pub(super) async fn exchange(
        &self,
        registry: &str,
        what: &str,
        make: &(dyn Fn() -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let mut redirected: Option<Url> = None;
        for _ in 0..=MAX_REDIRECTS {
            let made = make().build();
            let mut request = made.map_err(|error| RegistryError::from_transport(what, error))?;
            if let Some(url) = redirected.take() {
                if url.origin() != request.url().origin() {
                    ITS_OWN.iter().for_each(|name| drop(request.headers_mut().remove(name)));
                }
                *request.url_mut() = url;
            }
            let method = request.method().clone();
            let response = self.speak(request, what).await?;
            let Some(url) = next(&method, &response) else { return Ok(response) };
            if !self.may_go_to(registry, &url) {
                return Err(in_the_clear(registry, "requests", &url));
            }
            redirected = Some(url);
        }
        Err(RegistryError::malformed(format!("{what}: the registry redirects in a circle")))
    }

    /// Sends a request to its address. If that is one of plain HTTP and the other side seems not to
    /// understand it, finds out whether it wants TLS.
    async fn speak(&self, request: Request, what: &str) -> Result<Response, RegistryError> {
        let url = request.url().clone();
        let sent = self.http().execute(request).await;
        if url.scheme() == "https" {
            return sent.map_err(|error| RegistryError::from_transport(what, error));
        }
        let host = url.authority().to_owned();
        match sent {
            Ok(response) if response.status() != StatusCode::BAD_REQUEST => {
                self.remember_plain(&host);
                Ok(response)
            }
            Err(error) if error.is_timeout() || error.is_connect() => {
                Err(RegistryError::from_transport(what, error))
            }
            sent => {
                if self.may_want_tls(&host) && self.wants_tls(&url).await {
                    return Err(RegistryError::insecure(format!(
                        "{what}: {host} speaks TLS, and was spoken to in plain HTTP; reach it with \
                        --registry-tls {host}, or without --insecure-registry if it has that"
                    )));
                }
                // Asked once: the next failure is a failure.
                self.remember_plain(&host);
                sent.map_err(|error| RegistryError::from_transport(what, error))
            }
        }
    }

    /// Returns whether the other side of an address of plain HTTP speaks TLS. Asks without
    /// credentials.
    async fn wants_tls(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        let mut probe = url.clone();
        let is_set = probe.set_scheme("https").and_then(|()| probe.set_port(port));
        probe.set_path("/v2/");
        probe.set_query(None);
        let asked = tokio::time::timeout(PROBED_WITHIN, self.http().get(probe).send());
        match asked.await {
            Ok(Ok(_answer)) => is_set.is_ok(),
            Ok(Err(error)) => matches!(tls_failure(&error), Some(TlsFailure::Lasting(_))),
            Err(_late) => false,
        }
    }
}

/// Returns where a redirected request goes next.
fn next(method: &Method, response: &Response) -> Option<Url> {
    let reads = method == Method::GET || method == Method::HEAD;
    let is_followed = match response.status().as_u16() {
        307 | 308 => true,
        301..=303 => reads,
        _ => false,
    };
    let location = response.headers().get(LOCATION).filter(|_| is_followed)?;
    response.url().join(location.to_str().ok()?).ok()
}

/// The registry sends something from TLS into the clear.
pub(super) fn in_the_clear(registry: &str, what: &str, url: &Url) -> RegistryError {
    let to = format!("{}://{}", url.scheme(), url.authority());
    RegistryError::refused(format!(
        "{registry}: the registry sends {what} to {to}, which is plain HTTP: its proxy must set \
        X-Forwarded-Proto, or the operator of Slipway must allow that host with \
        --insecure-registry"
    ))
}
