// SPDX-License-Identifier: Apache-2.0

//! Sends one request to a registry: its address, its tries, and the connections of all of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Method;
use reqwest::{RequestBuilder, Response};

use super::access::Access;
use super::credentials::Credentials;
use super::error::RegistryError;
use super::repository::{Reading, Repository};
use super::tokens::Tokens;
use super::{ErrorKind, TRANSFER_BACKOFF, connect};
use crate::single_flight::SingleFlight;

/// How often a request is tried at once before its failure counts; the build's own retries come
/// after that, and cost an attempt.
const MAX_TRIES: u32 = 3;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Hosts (with port) that are spoken to in plain HTTP. Loopback addresses are unless they are
    /// listed in `tls`.
    pub insecure: Vec<String>,
    /// Loopback hosts (with port) that are spoken to over TLS.
    pub tls: Vec<String>,
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
    /// Hosts that do not want TLS: they answered in plain HTTP, or not over TLS.
    plain: Mutex<HashSet<String>>,
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
        let http = connect::client()
            .map_err(|error| RegistryError::from_transport("the HTTP client", error))?;
        let credentials = Credentials::load(&options.docker_configs)
            .map_err(|error| RegistryError::denied(error.to_string()))?;
        let shared = Shared {
            options,
            credentials,
            tokens: Tokens::default(),
            refuse_whole: Mutex::default(),
            plain: Mutex::default(),
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
        let mut pauses = TRANSFER_BACKOFF.pauses();
        loop {
            let sent = self.send_once(access, &method, path, prepare, body).await;
            let Err(failure) = sent else { return sent };
            // A rate limit is left to the caller, because it names its own time.
            if failure.kind() != ErrorKind::Unavailable || pauses.failures() + 1 >= MAX_TRIES {
                return Err(failure);
            }
            pauses.wait().await;
        }
    }

    /// Sends a request like [`send`](Self::send), but once: for what only saves another request.
    pub(super) async fn send_once(
        &self,
        access: &Access,
        method: &Method,
        path: &str,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        body: &Body,
    ) -> Result<Response, RegistryError> {
        // Before the token, so that a name that is none costs no request.
        let url = self.url(access, path)?;
        let what = format!("{}/{path}", access.repository.reference.name());
        let make = || {
            let request = prepare(self.http.request(method.clone(), url.clone()));
            match body {
                Body::Empty if *method == Method::POST => request.header("content-length", 0),
                Body::Empty => request,
                Body::Bytes(bytes) => request.body(bytes.clone()),
            }
        };
        let response = self.send_authorized(access, &what, &make).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(access, &what, response).await)
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
            self.exchange(access.repository.reference.registry(), what, make).await
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

    /// Returns whether a host may want TLS: it has not answered in plain HTTP yet.
    pub(super) fn may_want_tls(&self, host: &str) -> bool {
        !lock(&self.shared.plain).contains(host)
    }

    /// Remembers that a host does not want TLS.
    pub(super) fn remember_plain(&self, host: &str) {
        let mut plain = lock(&self.shared.plain);
        if !plain.contains(host) {
            plain.insert(host.to_owned());
        }
    }

    /// Returns the reads of tags in progress.
    pub(super) fn readings(&self) -> &SingleFlight<(Repository, String), Reading> {
        &self.shared.readings
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

/// Chooses ring as the process's TLS provider, once. An earlier choice stays.
pub(crate) fn install_crypto() {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are consistent after every operation, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
