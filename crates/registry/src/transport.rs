// SPDX-License-Identifier: Apache-2.0

//! Sends one request to a registry: its address, its tries, and the connections of all of them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use reqwest::{RequestBuilder, Response, Url};

use super::access::Access;
use super::credentials::Credentials;
use super::error::RegistryError;
use super::repository::{Reading, Repository};
use super::tokens::Tokens;
use super::{ErrorKind, TRANSFER_BACKOFF};
use crate::single_flight::SingleFlight;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a registry. Some take long to commit a large blob.
const REGISTRY_SILENT_FOR: Duration = Duration::from_secs(120);
/// How often a request is tried at once before its failure counts; the build's own retries come
/// after that, and cost an attempt.
const MAX_TRIES: u32 = 3;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Hosts (with port) that are spoken to in plain HTTP. Loopback addresses always are.
    pub insecure: Vec<String>,
    /// Docker `config.json` files with credentials, the first match wins.
    pub docker_configs: Vec<std::path::PathBuf>,
    /// Blobs above this many bytes are uploaded in chunks of that size; 0 is never.
    pub upload_chunk_bytes: u64,
}

/// Registries, with connections and tokens kept between builds. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    http: reqwest::Client,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) options: RegistryOptions,
    pub(super) credentials: Credentials,
    pub(super) tokens: Tokens,
    /// Registries that do not take a blob in one POST.
    refuse_whole: Mutex<HashSet<String>>,
    /// Tags that are read at this moment.
    readings: SingleFlight<(Repository, String), Reading>,
}

/// A request's body, made again for each try.
pub(super) enum Body {
    Empty,
    Bytes(Bytes),
}

impl Registry {
    /// Makes the client.
    ///
    /// # Errors
    ///
    /// When a credentials file cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        install_crypto();
        let http = http_client()
            .map_err(|error| RegistryError::from_transport("the HTTP client", error))?;
        let credentials = Credentials::load(&options.docker_configs)
            .map_err(|error| RegistryError::denied(error.to_string()))?;
        let shared = Shared {
            options,
            credentials,
            tokens: Tokens::default(),
            refuse_whole: Mutex::default(),
            readings: SingleFlight::default(),
        };
        Ok(Self { http, shared: Arc::new(shared) })
    }

    /// Sends a request below `/v2/<repository>/`, and returns a successful response.
    ///
    /// Broken connections and faults of the registry are retried a few times. Every request that
    /// comes through here can be repeated without harm.
    pub(super) async fn send(
        &self,
        access: &Access,
        method: Method,
        path: &str,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        body: &Body,
    ) -> Result<Response, RegistryError> {
        let url = self.url(access, path)?;
        let what = format!("{}/{path}", access.repository.reference.name());
        let make = || {
            let request = prepare(self.http.request(method.clone(), url.clone()));
            match body {
                Body::Empty if method == Method::POST => request.header("content-length", 0),
                Body::Empty => request,
                Body::Bytes(bytes) => request.body(bytes.clone()),
            }
        };
        let mut pauses = TRANSFER_BACKOFF.pauses();
        loop {
            let failure = match self.send_authorized(access, &what, &make).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => RegistryError::from_response(&what, response).await,
                Err(failure) => failure,
            };
            // A rate limit is left to the caller, because it names its own time.
            if failure.kind() != ErrorKind::Unavailable || pauses.failures() + 1 >= MAX_TRIES {
                return Err(failure);
            }
            pauses.wait().await;
        }
    }

    /// Sends a request to an address from the registry, and returns any answer. `make` makes the
    /// request, again if it must be sent with another token.
    pub(super) async fn send_to(
        &self,
        access: &Access,
        same_host: bool,
        what: &str,
        make: &(dyn Fn() -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        if same_host {
            self.send_authorized(access, what, make).await
        } else {
            // A token is never sent to a host other than the one it is for.
            send(make(), what).await
        }
    }

    /// Returns the size above which a blob is uploaded in chunks of that size; 0 turns it off.
    pub(super) fn upload_chunk_bytes(&self) -> u64 {
        self.shared.options.upload_chunk_bytes
    }

    /// Returns whether a registry is known not to accept a blob in one POST.
    pub(super) fn refuses_whole(&self, registry: &str) -> bool {
        lock(&self.shared.refuse_whole).contains(registry)
    }

    /// Remembers that a registry does not accept a blob in one POST.
    pub(super) fn remember_refusal(&self, registry: &str) {
        lock(&self.shared.refuse_whole).insert(registry.to_owned());
    }

    /// Returns the reads of tags in progress.
    pub(super) fn readings(&self) -> &SingleFlight<(Repository, String), Reading> {
        &self.shared.readings
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Returns the address of a path below `/v2/<repository>/`.
    pub(super) fn url(&self, access: &Access, path: &str) -> Result<Url, RegistryError> {
        let reference = &access.repository.reference;
        let registry = reference.registry();
        let scheme = if self.is_plain(registry) { "http" } else { "https" };
        // Docker Hub's API is on another host than its name.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{path}", reference.repository()))
            .map_err(|error| RegistryError::malformed(format!("{reference}: {error}")))
    }

    pub(super) fn is_plain(&self, registry: &str) -> bool {
        self.shared.options.insecure.iter().any(|host| host == registry) || is_loopback(registry)
    }
}

/// Sends a request without a token.
pub(super) async fn send(request: RequestBuilder, what: &str) -> Result<Response, RegistryError> {
    request.send().await.map_err(|error| RegistryError::from_transport(what, error))
}

/// Returns whether a registry's host is this machine, which is reached over plain HTTP, as Docker
/// does.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Makes the client. A machine without certificate authorities can still reach registries over
/// plain HTTP. Those with TLS are then refused as untrusted.
fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(REGISTRY_SILENT_FOR)
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no certificate authorities: install ca-certificates to reach \
            registries over TLS");
        let trusts_nobody = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder().tls_backend_preconfigured(trusts_nobody).build()
    })
}

/// Chooses ring as the process's TLS provider, once. An earlier choice stays.
pub(crate) fn install_crypto() {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are consistent after every operation, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "10.0.0.1:5000", "[2001:db8::1]:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
