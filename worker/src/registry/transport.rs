// SPDX-License-Identifier: Apache-2.0

//! Sends one request to a registry, with a token if it wants one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use oci_client::{
    RegistryOperation, client::ClientConfig, client::ClientProtocol, secrets::RegistryAuth,
};
use reqwest::{RequestBuilder, Response, Url};

use super::credentials::Credentials;
use super::error::RegistryError;
use super::{ErrorKind, Manifest, Repository};
use crate::turns::Turns;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a registry. Some take long to commit a large blob.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
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
    shared: Arc<Shared>,
}

struct Shared {
    options: RegistryOptions,
    credentials: Credentials,
    authenticators: Mutex<HashMap<String, oci_client::Client>>,
    tokens: Mutex<HashMap<Access, Token>>,
    /// Registries that do not take a blob in one POST.
    refuse_whole: Mutex<HashSet<String>>,
    /// Tags that are read at this moment.
    readings: Turns<(Repository, String), Manifest>,
}

/// What a request may do: the scope of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub(super) repository: Repository,
    push: bool,
}

impl Access {
    pub(super) fn pull(repository: &Repository) -> Self {
        Self { repository: repository.clone(), push: false }
    }

    pub(super) fn push(repository: &Repository) -> Self {
        Self { repository: repository.clone(), push: true }
    }
}

#[derive(Clone)]
enum Token {
    Bearer(String),
    Basic(String, String),
}

/// A request's body; made anew for each try.
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
            authenticators: Mutex::default(),
            tokens: Mutex::default(),
            refuse_whole: Mutex::default(),
            readings: Turns::default(),
        };
        Ok(Self { http, shared: Arc::new(shared) })
    }

    /// Sends a request below `/v2/<repository>/`, and returns its response if that is a success.
    ///
    /// A 401 is answered with a token once. Broken connections and faults of the registry are
    /// tried again a few times, which is safe for every request that comes through here: repeated,
    /// it has the same effect.
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
        let mut tried = 0;
        let mut challenged = false;
        loop {
            let mut request = prepare(self.http.request(method.clone(), url.clone()));
            request = match body {
                Body::Empty if method == Method::POST => request.header("content-length", 0),
                Body::Empty => request,
                Body::Bytes(bytes) => request.body(bytes.clone()),
            };
            let failure = match self.authorized(access, request).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    self.authenticate(access, &what).await?;
                    continue;
                }
                Ok(response) => RegistryError::from_response(&what, response).await,
                Err(error) => RegistryError::from_transport(&what, error),
            };
            tried += 1;
            // A rate limit is for the caller: it names its own time.
            if failure.kind() != ErrorKind::Unavailable || tried >= MAX_TRIES {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(50) * 4u32.pow(tried - 1)).await;
        }
    }

    /// Sends a request to an address that the registry gave, once, and returns whatever it answers.
    pub(super) async fn send_once(
        &self,
        access: &Access,
        request: RequestBuilder,
        same_host: bool,
        what: &str,
    ) -> Result<Response, RegistryError> {
        // A token is never sent to another host than the one it is for.
        let request = if same_host { self.authorized(access, request) } else { request };
        request.send().await.map_err(|error| RegistryError::from_transport(what, error))
    }

    /// Returns above which size a blob is uploaded in chunks, and their size; 0 is never.
    pub(super) fn upload_chunk_bytes(&self) -> u64 {
        self.shared.options.upload_chunk_bytes
    }

    /// Returns whether a registry is known not to take a blob in one POST.
    pub(super) fn refuses_whole(&self, registry: &str) -> bool {
        lock(&self.shared.refuse_whole).contains(registry)
    }

    /// Remembers that a registry does not take a blob in one POST.
    pub(super) fn remember_refusal(&self, registry: &str) {
        lock(&self.shared.refuse_whole).insert(registry.to_owned());
    }

    /// Returns the tags that are read at this moment.
    pub(super) fn readings(&self) -> &Turns<(Repository, String), Manifest> {
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
        // Docker Hub's API lives on another host than its name.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{path}", reference.repository()))
            .map_err(|error| RegistryError::malformed(format!("{reference}: {error}")))
    }

    fn is_plain(&self, registry: &str) -> bool {
        self.shared.options.insecure.iter().any(|host| host == registry) || is_loopback(registry)
    }

    fn authorized(&self, access: &Access, request: RequestBuilder) -> RequestBuilder {
        match lock(&self.shared.tokens).get(access).cloned() {
            None => request,
            Some(Token::Bearer(token)) => request.bearer_auth(token),
            Some(Token::Basic(user, password)) => request.basic_auth(user, Some(password)),
        }
    }

    /// Gets a token for an access and keeps it.
    pub(super) async fn authenticate(
        &self,
        access: &Access,
        what: &str,
    ) -> Result<(), RegistryError> {
        let Repository { reference, secret } = &access.repository;
        let login = self.shared.credentials.find(reference, secret.as_ref());
        let login = login.map_err(|error| RegistryError::denied(format!("{what}: {error}")))?;
        let operation = if access.push { RegistryOperation::Push } else { RegistryOperation::Pull };
        let image = oci_client::Reference::with_tag(
            reference.registry().to_owned(),
            reference.repository().to_owned(),
            "latest".to_owned(),
        );
        let authenticator = self.authenticator(reference.registry())?;
        let answer = authenticator.auth(&image, &login, operation).await;
        let token = match (answer, login) {
            (Ok(Some(token)), _) => Token::Bearer(token),
            (Ok(None), RegistryAuth::Basic(user, password)) => Token::Basic(user, password),
            (Ok(None), _) => {
                let host = reference.registry();
                return Err(RegistryError::denied(format!(
                    "{what}: the registry asks for a user and password, and the worker has none for {host}; add them to a Docker config.json that the worker reads"
                )));
            }
            (Err(error), _) => return Err(denied(what, error)),
        };
        lock(&self.shared.tokens).insert(access.clone(), token);
        Ok(())
    }

    fn authenticator(&self, registry: &str) -> Result<oci_client::Client, RegistryError> {
        let mut authenticators = lock(&self.shared.authenticators);
        if let Some(known) = authenticators.get(registry) {
            return Ok(known.clone());
        }
        let plain = self.is_plain(registry);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..Default::default()
        };
        let made = oci_client::Client::try_from(config)
            .map_err(|error| RegistryError::unavailable(format!("the token client: {error}")))?;
        authenticators.insert(registry.to_owned(), made.clone());
        Ok(made)
    }
}

fn denied(what: &str, error: oci_client::errors::OciDistributionError) -> RegistryError {
    use oci_client::errors::OciDistributionError as Error;
    match error {
        Error::RequestError(error) => {
            RegistryError::from_transport(&format!("{what}: the token server"), error)
        }
        Error::AuthenticationFailure(_) => RegistryError::denied(format!(
            "{what}: the token server refused the worker's credentials; check them in its Docker config.json"
        )),
        other => RegistryError::denied(format!("{what}: no token could be had: {other}")),
    }
}

/// Returns whether a registry's host is this machine, which is spoken to in plain HTTP as Docker
/// does.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Makes the client. A machine without certificate authorities still reaches registries in plain
/// HTTP; those behind TLS are then refused as not trusted.
fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
    };
    builder().build().or_else(|error| {
        tracing::warn!(%error, "no certificate authorities: install ca-certificates to reach registries over TLS");
        let trusts_nobody = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder().tls_backend_preconfigured(trusts_nobody).build()
    })
}

/// Chooses ring as the process's TLS cryptography, once; another choice made before stands.
pub(crate) fn install_crypto() {
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are whole after every operation, so a panic elsewhere does not spoil them.
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
