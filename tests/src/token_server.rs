// SPDX-License-Identifier: Apache-2.0

//! A token server for docker-registry (distribution specification, "Token Authentication
//! Implementation"), and a docker-registry that trusts it.
//!
//! It grants all repositories that are not withheld to clients with the one user and password or
//! the one identity token, and records the requests.

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::port::free_port;
use crate::process::{Process, command};
use crate::proxy::Acceptor;
use crate::registry::RegistryProgram;
use crate::{http, wait};

/// The user that gets tokens.
pub const USER: &str = "user";
/// The password of the user.
pub const PASSWORD: &str = "password";
/// The identity token that replaces user and password in a POST.
pub const IDENTITY: &str = "identity";
/// How long docker-registry 2.8 accepts an expired token, in seconds.
const LEEWAY: u64 = 60;

/// A request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The requested rights.
    pub scopes: Vec<String>,
    /// Whether it was requested with an identity token.
    pub by_identity: bool,
    /// The token, if it was given.
    pub token: Option<String>,
}

/// A server that gives out tokens.
pub struct TokenServer {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

struct Shared {
    key: EcdsaKeyPair,
    /// The certificate of the key, in the form that tokens carry.
    certificate: String,
    withheld: Mutex<HashSet<String>>,
    asked: Mutex<Vec<Asked>>,
    /// How long tokens are accepted, in seconds. They all say five minutes.
    life: Mutex<u64>,
}

impl TokenServer {
    /// Starts a server with a key of its own, which it writes to a directory with its certificate.
    ///
    /// # Panics
    ///
    /// When openssl cannot make a key.
    pub async fn start(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("the directory can be made");
        let (key, certificate) = (directory.join("key.pem"), directory.join("certificate.pem"));
        let mut openssl = command("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-subj", "/CN=tests", "-keyout"]).arg(&key);
        let made = openssl.arg("-out").arg(&certificate).output();
        let made = made.expect("openssl is installed: run `make setup` first");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let der = STANDARD.decode(pem(&key)).expect("a key");
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new());
        let shared = Arc::new(Shared {
            key: key.expect("a key"),
            certificate: pem(&certificate),
            withheld: Mutex::default(),
            asked: Mutex::default(),
            life: Mutex::new(300),
        });
        let served = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |stream| serve(Arc::clone(&served), stream)).await;
        Self { shared, acceptor }
    }

    /// Starts a docker-registry that wants tokens of this server, on the storage of another
    /// registry. Returns it with its address.
    pub async fn registry(&self, directory: &Path, storage: &Path) -> (Process, String) {
        self.registry_program(&RegistryProgram::DockerRegistry, directory, storage).await
    }

    /// Starts another registry in the same way.
    pub async fn registry_program(
        &self,
        program: &RegistryProgram,
        directory: &Path,
        storage: &Path,
    ) -> (Process, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let more = json!({
            "storage": {"filesystem": {"rootdirectory": storage}},
            "auth": {"token": {
                "realm": format!("http://{}/token", self.acceptor.address),
                "service": "registry-of-the-tests",
                "issuer": "tests",
                "rootcertbundle": directory.join("certificate.pem"),
            }},
        });
        let process = program.start(directory, &address, &more);
        let (client, url) = (http::client(), format!("http://{address}/v2/"));
        wait::until("the registry", wait::SOON, || http::answers(&client, &url)).await;
        (process, address)
    }

    /// From now on grants nothing in these repositories, and everything in all others.
    pub fn withhold(&self, repositories: &[&str]) {
        *lock(&self.shared.withheld) = repositories.iter().map(|name| (*name).into()).collect();
    }

    /// From now on gives out tokens that are accepted for this many seconds and claim a longer
    /// life.
    pub fn set_life(&self, seconds: u64) {
        *lock(&self.shared.life) = seconds;
    }

    /// Returns the requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

/// Returns the content of a file in base64.
fn pem(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("the file can be read");
    text.lines().filter(|line| !line.starts_with("-----")).collect()
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients may leave at any time.
    let _closed = connection.await;
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let by_identity = parts.method == Method::POST;
    let query = match by_identity {
        true => String::from_utf8_lossy(&body).into_owned(),
        false => parts.uri.query().unwrap_or_default().to_owned(),
    };
    let parameters = Url::parse(&format!("http://tests/?{query}")).expect("it is an address");
    let parameters: Vec<(String, String)> = parameters.query_pairs().into_owned().collect();
    let has = |name: &str, value: &str| parameters.contains(&(name.to_owned(), value.to_owned()));
    let password = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let is_known = match by_identity {
        true => has("grant_type", "refresh_token") && has("refresh_token", IDENTITY),
        false => parts.headers.get(AUTHORIZATION).is_some_and(|shown| *shown == *password),
    };
    let is_for_us = has("service", "registry-of-the-tests");
    let scopes = parameters.iter().filter(|(name, _)| name == "scope");
    let scopes: Vec<String> =
        scopes.flat_map(|(_, scopes)| scopes.split(' ')).map(str::to_owned).collect();
    let token = (is_known && is_for_us).then(|| shared.token(&scopes));
    lock(&shared.asked).push(Asked { scopes, by_identity, token: token.clone() });
    let (status, name) = match (&token, by_identity) {
        (None, _) => (StatusCode::UNAUTHORIZED, "details"),
        (_, true) => (StatusCode::OK, "access_token"),
        (_, false) => (StatusCode::OK, "token"),
    };
    let document = json!({name: token, "expires_in": 300});
    let mut response = Response::new(Full::from(document.to_string()));
    *response.status_mut() = status;
    Ok(response)
}

impl Shared {
    fn token(&self, scopes: &[String]) -> String {
        let withheld = lock(&self.withheld);
        let access: Vec<Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<&str> = actions.split(',').collect();
                (!withheld.contains(name))
                    .then(|| json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let number = lock(&self.asked).len();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": "tests", "sub": USER, "aud": "registry-of-the-tests", "jti": number.to_string(),
            "iat": now, "nbf": now - LEEWAY, "exp": now + *lock(&self.life) - LEEWAY,
            "access": access,
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.expect("the key can sign");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
