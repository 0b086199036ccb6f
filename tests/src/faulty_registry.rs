// SPDX-License-Identifier: Apache-2.0

//! A registry that misbehaves by script, and remembers every manifest that was written to it.
//!
//! It is a proxy for a real registry and passes on every request without a rule. Its record of
//! writes shows which build wrote a tag and when, of which the registry itself only knows the last.
//! Its record of requests shows what a push asks and how often it sends a byte.

mod answers;
mod script;
mod tokens;
mod traffic;
mod writes;

use std::io::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::certificate::Certificate;
use crate::proxy::Acceptor;
use answers::{falsify, refusal, relocate};
use script::Script;
pub use script::{Misbehaviour, Rule};
use tokens::Tokens;
pub use traffic::Seen;
use traffic::{Gate, Traffic};
pub use writes::{ManifestWrite, TagWriter};
use writes::{Writes, written_manifest};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: [HeaderName; 4] =
    [header::CONNECTION, header::EXPECT, header::HOST, header::TRANSFER_ENCODING];

/// A registry that can misbehave.
pub struct FaultyRegistry {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl FaultyRegistry {
    /// Starts it in front of a real registry, `<host>:<port>`. Everything random follows from the
    /// seed and the order of the requests.
    pub async fn before(upstream: &str, seed: u64) -> Self {
        let shared = Shared::before(upstream, seed, "http");
        let served = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |stream| serve(Arc::clone(&served), stream)).await;
        Self { shared, acceptor }
    }

    /// Starts it in front of a real registry, `<host>:<port>`, and speaks TLS with a certificate.
    ///
    /// # Panics
    ///
    /// When the certificate cannot be used.
    pub async fn with_tls(upstream: &str, certificate: &Certificate) -> Self {
        let tls = certificate.acceptor();
        let shared = Shared::before(upstream, 1, "https");
        let served = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |stream| {
            let (tls, served) = (tls.clone(), Arc::clone(&served));
            async move {
                // Clients may find the certificate wanting.
                if let Ok(stream) = tls.accept(stream).await {
                    serve(served, stream).await;
                }
            }
        });
        Self { shared, acceptor: acceptor.await }
    }

    /// Returns where clients connect, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.acceptor.address
    }

    /// Replaces all rules.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.shared.script.set(rules);
    }

    /// Adds a rule after the others.
    pub fn add_rule(&self, rule: Rule) {
        self.shared.script.add(rule);
    }

    /// From now on answers only requests that carry a token, which every client can get.
    pub fn require_tokens(&self) {
        self.shared.tokens.require();
    }

    /// From now on the registry behaves.
    pub fn clear(&self) {
        self.set_rules(Vec::new());
    }

    /// Returns the attempted writes of manifests, those of one tag in the order in which they took
    /// effect. Unfinished ones are left out.
    #[must_use]
    pub fn writes(&self) -> Vec<ManifestWrite> {
        self.shared.writes.done()
    }

    /// Returns the requests in the order of arrival, unfinished ones included.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.traffic.seen()
    }

    /// Waits until a body or an answer is held.
    pub async fn held(&self) {
        self.shared.gate.held().await;
    }

    /// From now on lets all bodies pass.
    pub fn release(&self) {
        self.shared.gate.release();
    }

    /// Returns how often the registry misbehaved.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.shared.script.faults()
    }
}

struct Shared {
    upstream: String,
    /// The scheme of its own addresses.
    scheme: &'static str,
    client: reqwest::Client,
    script: Script,
    writes: Writes,
    tokens: Tokens,
    traffic: Traffic,
    gate: Gate,
}

async fn serve<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients may leave at any time, and the service closes a connection by an error.
    let _closed = connection.await;
}

/// Answers a request, or closes its connection with an error.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let seen = shared.traffic.note(&request);
    let host = request.headers().get(header::HOST).cloned();
    let mut response = Arc::clone(&shared).decide(request, seen).await?;
    shared.traffic.answered(seen, response.status());
    relocate(response.headers_mut(), (&shared.upstream, shared.scheme), host.as_ref());
    Ok(response)
}

impl Shared {
    fn before(upstream: &str, seed: u64, scheme: &'static str) -> Arc<Self> {
        let redirect = reqwest::redirect::Policy::none();
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().redirect(redirect).no_proxy().build();
        Arc::new(Self {
            upstream: upstream.to_owned(),
            scheme,
            client: client.expect("the client can be made"),
            script: Script::with_seed(seed),
            writes: Writes::default(),
            tokens: Tokens::default(),
            traffic: Traffic::default(),
            gate: Gate::default(),
        })
    }

    /// Returns whether the real registry holds what a request writes.
    async fn exists(&self, parts: &Parts) -> bool {
        let url = format!("http://{}{}", self.upstream, parts.uri);
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let asked = self.client.head(url).header(header::ACCEPT, accept).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Decides whether a request is answered here or passed on.
    async fn decide(
        self: Arc<Self>,
        request: Request<Incoming>,
        seen: usize,
    ) -> Result<Response<Body>, Error> {
        if request.uri().path() == tokens::PATH {
            let fault = self.script.draw(&request);
            let refusal = fault.as_ref().and_then(refusal);
            return Ok(refusal.unwrap_or_else(|| self.tokens.give()));
        }
        let challenge = tokens::challenge(request.headers(), self.scheme);
        if !self.tokens.admit(request.headers()) {
            return Ok(challenge);
        }
        let fault = self.script.draw(&request);
        if let Some(Misbehaviour::ExpireTokens { is_early, .. }) = fault {
            self.tokens.expire();
            if !is_early {
                self.traffic.drain(seen, request.into_body()).await?;
            }
            return Ok(challenge);
        }
        match written_manifest(&request) {
            Some((repository, reference)) => {
                self.put_manifest(request, repository, reference, fault).await
            }
            None => self.pass(request, fault, seen).await,
        }
    }

    /// Passes on a request with a body of any size.
    async fn pass(
        &self,
        request: Request<Incoming>,
        fault: Option<Misbehaviour>,
        seen: usize,
    ) -> Result<Response<Body>, Error> {
        let (mut parts, mut body) = request.into_parts();
        self.traffic.go_on(&mut parts);
        match &fault {
            Some(Misbehaviour::KeepUpTo { offset }) if parts.method != Method::GET => {
                self.keep(&parts, body, *offset, seen).await?;
                return Err(closed());
            }
            Some(Misbehaviour::HoldAt { offset }) if parts.method != Method::GET => {
                let start = traffic::range(&parts.headers).0;
                let counted = self.traffic.count(seen, body);
                let held = self.gate.hold(counted, offset - start);
                return self.forward(&parts, Body::wrap_stream(held)).await;
            }
            Some(Misbehaviour::ResetMidBody) => {
                let _a_part = body.frame().await;
                return Err(closed());
            }
            Some(Misbehaviour::Slow { millis }) => pause(*millis).await,
            Some(fault) => {
                if let Some(refusal) = refusal(fault) {
                    // The whole body is read; otherwise the client might see a closed connection.
                    self.traffic.drain(seen, body).await?;
                    return Ok(refusal);
                }
            }
            None => {}
        }
        let counted = Body::wrap_stream(self.traffic.count(seen, body));
        let response = self.forward(&parts, counted).await?;
        match fault {
            Some(Misbehaviour::HoldAt { offset }) => Ok(response
                .map(|body| Body::wrap_stream(self.gate.hold(body.into_data_stream(), offset)))),
            Some(Misbehaviour::KeepUpTo { offset }) => Ok(response
                .map(|body| Body::wrap_stream(traffic::cut(body.into_data_stream(), offset)))),
            fault => falsify(&parts.method, response, fault.as_ref()).await,
        }
    }

    /// Writes a part of a body into the upload's session, like a registry that keeps what it has
    /// when a connection breaks.
    async fn keep(
        &self,
        parts: &Parts,
        body: Incoming,
        offset: u64,
        seen: usize,
    ) -> Result<(), Error> {
        let (start, _) = traffic::range(&parts.headers);
        let part = traffic::first(self.traffic.count(seen, body), offset - start).await?;
        let (uri, _digest) = traffic::split_digest(&parts.uri);
        let url = format!("http://{}{uri}", self.upstream);
        let patch = self.client.patch(url).header("content-type", "application/octet-stream");
        let response = patch.body(part).send().await.map_err(Error::other)?;
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = location.expect("a registry says where an upload goes on");
        let (_host, path) = location.split_once("/v2/").expect("it is an address of the API");
        self.traffic.moved(&uri, format!("/v2/{path}"));
        Ok(())
    }

    /// Sends a request on to the real registry. If that does not answer, neither does this one.
    async fn forward(&self, parts: &Parts, body: Body) -> Result<Response<Body>, Error> {
        let url = format!("http://{}{}", self.upstream, parts.uri);
        let mut headers = parts.headers.clone();
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
        let request = self.client.request(parts.method.clone(), url).headers(headers).body(body);
        let response = request.send().await.map_err(Error::other)?;
        let mut response = Response::<Body>::from(response);
        HOP_BY_HOP.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        Ok(response)
    }
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// The error by which the service closes the connection.
fn closed() -> Error {
    Error::other("the script wants the connection closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
