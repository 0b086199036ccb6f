// SPDX-License-Identifier: Apache-2.0

//! A registry that misbehaves by script, and remembers every manifest that was written to it.
//!
//! It stands before a real registry and passes on everything that no rule is about. Its record of
//! writes is what says which build wrote a tag when: the registry itself only knows the last. Its
//! record of requests says what a push asks and how often it sends a byte.

mod answers;
mod traffic;

use std::collections::HashMap;
use std::io::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Body;
use serde::{Deserialize, Serialize};
use slipway_proto::{Digest, Timestamp};
use tokio::net::TcpStream;

use crate::proxy::Acceptor;
use answers::{falsify, refusal, relocate};
pub use traffic::Seen;
use traffic::{Gate, Traffic};

/// What a writer of tags says about itself in a header of each request.
const WRITER: &str = "slipway-tag-write";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What is about one connection and not passed on.
const HOP_BY_HOP: [HeaderName; 4] =
    [header::CONNECTION, header::EXPECT, header::HOST, header::TRANSFER_ENCODING];

/// What the registry does instead of what it was asked to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Misbehaviour {
    /// Answers 401, and does nothing.
    Unauthorized,
    /// Answers 403 with the code `DENIED`, and does nothing.
    Forbidden,
    /// Answers 429, and does nothing.
    TooManyRequests {
        /// When it says to come back.
        retry_after_s: u64,
    },
    /// Answers this status, and does nothing.
    ServerError(u16),
    /// Waits, then does it. A manifest arrives even if its client is gone by then.
    Slow {
        /// For how long.
        millis: u64,
    },
    /// Reads a part of the body, closes the connection, and does nothing.
    ResetMidBody,
    /// Does it, and closes the connection without an answer.
    LoseAnswer,
    /// Does it, and answers with a digest of something else. The body of a manifest or blob that
    /// is read has a wrong byte instead, under its right digest.
    WrongDigest,
    /// Keeps the bytes of an upload before this offset in its session, and closes the connection;
    /// only requests that carry the byte at the offset are met. Of the answer to a GET, passes on
    /// the bytes before the offset.
    KeepUpTo {
        /// The offset in the blob.
        offset: u64,
    },
    /// Passes on a body up to this offset, and the rest when it is released: that of a request that
    /// uploads, or that of the answer to a GET. Only uploads that carry the byte at the offset are
    /// met.
    HoldAt {
        /// The offset in the blob.
        offset: u64,
    },
    /// Answers 400 with the code `MANIFEST_BLOB_UNKNOWN`, and does nothing.
    BlobUnknown,
}

/// When the registry misbehaves: the first rule that applies to a request decides.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The method of the requests it is about, or all.
    pub method: Option<&'static str>,
    /// What their path contains.
    pub path_contains: String,
    /// What is done.
    pub misbehaviour: Misbehaviour,
    /// How often it is done, or always.
    pub times: Option<u32>,
    /// How likely it is done each time, from 0 to 1.
    pub probability: f64,
}

/// A manifest that somebody wanted to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestWrite {
    /// When the request came.
    pub received_at: Timestamp,
    /// When it was passed on to the registry, unless a misbehaviour prevented it.
    pub forwarded_at: Option<Timestamp>,
    /// When the registry answered.
    pub answered_at: Option<Timestamp>,
    /// The repository.
    pub repository: String,
    /// The tag, or a digest.
    pub reference: String,
    /// The digest of the manifest.
    pub digest: String,
    /// What the registry answered. The client may have been told something else, or nothing. Where
    /// it was forwarded and not answered, nobody knows whether it was written.
    pub status: Option<u16>,
    /// Who wrote it, if it said so.
    pub writer: Option<TagWriter>,
}

/// Which run of which build writes a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagWriter {
    /// The build.
    pub build: String,
    /// Its epoch.
    pub epoch: u64,
    /// The build whose image is written, when it is not the writer's own.
    pub repairs: Option<String>,
}

impl TagWriter {
    /// Reads `build=<id> epoch=<n>[ repairs=<id>]`.
    fn parse(text: &str) -> Option<Self> {
        let fields: HashMap<&str, &str> =
            text.split_whitespace().filter_map(|field| field.split_once('=')).collect();
        Some(Self {
            build: (*fields.get("build")?).to_owned(),
            epoch: fields.get("epoch")?.parse().ok()?,
            repairs: fields.get("repairs").map(|build| (*build).to_owned()),
        })
    }
}

/// A registry that can misbehave.
pub struct FaultyRegistry {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl FaultyRegistry {
    /// Starts it before a real registry, `<host>:<port>`. All that is left to chance follows from
    /// the seed and the order of the requests.
    pub async fn before(upstream: &str, seed: u64) -> Self {
        let redirect = reqwest::redirect::Policy::none();
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().redirect(redirect).no_proxy().build();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: client.expect("the client can be made"),
            rules: Mutex::new(Vec::new()),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            writes: Mutex::new(Vec::new()),
            turns: Mutex::new(HashMap::new()),
            faults: AtomicU64::new(0),
            traffic: Traffic::default(),
            gate: Gate::default(),
        });
        let served = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |stream| serve(Arc::clone(&served), stream)).await;
        Self { shared, acceptor }
    }

    /// Returns where clients connect, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.acceptor.address
    }

    /// Replaces all rules.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        *lock(&self.shared.rules) = rules;
    }

    /// Adds a rule after the others.
    pub fn add_rule(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Lets the registry behave from now on.
    pub fn clear(&self) {
        self.set_rules(Vec::new());
    }

    /// Returns the manifests that somebody wanted to write, those of one tag in the order in which
    /// they took effect. Those under way are not among them.
    #[must_use]
    pub fn writes(&self) -> Vec<ManifestWrite> {
        lock(&self.shared.writes).clone()
    }

    /// Returns the requests that came, in their order; those under way are among them.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.traffic.seen()
    }

    /// Waits until a body is held.
    pub async fn held(&self) {
        self.shared.gate.held().await;
    }

    /// Lets all bodies pass from now on.
    pub fn release(&self) {
        self.shared.gate.release();
    }

    /// Returns how often the registry misbehaved.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    random: Mutex<StdRng>,
    writes: Mutex<Vec<ManifestWrite>>,
    turns: Mutex<HashMap<(String, String), Turn>>,
    faults: AtomicU64,
    traffic: Traffic,
    gate: Gate,
}

/// Held while a manifest is written, so that those of one tag are written one after the other.
type Turn = Arc<tokio::sync::Mutex<()>>;

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients may go at any time, and an error of the service is how it closes a connection.
    let _closed = connection.await;
}

/// Answers a request, or closes its connection with an error.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let seen = shared.traffic.note(&request);
    let fault = shared.draw(&request);
    let host = request.headers().get(header::HOST).cloned();
    let written = written_manifest(&request);
    let mut response = match written {
        Some((repository, reference)) => {
            Arc::clone(&shared).put_manifest(request, repository, reference, fault).await?
        }
        None => shared.pass(request, fault, seen).await?,
    };
    shared.traffic.answered(seen, response.status());
    relocate(response.headers_mut(), host.as_ref());
    Ok(response)
}

/// Returns repository and reference of the manifest that a request writes.
fn written_manifest(request: &Request<Incoming>) -> Option<(String, String)> {
    let path = request.uri().path().strip_prefix("/v2/")?;
    let (repository, reference) = path.rsplit_once("/manifests/")?;
    let put = request.method() == Method::PUT;
    put.then(|| (repository.to_owned(), reference.to_owned()))
}

impl Shared {
    /// Returns what the rules say about a request, and counts it.
    fn draw(&self, request: &Request<Incoming>) -> Option<Misbehaviour> {
        let (method, path) = (request.method(), request.uri().path());
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| {
            rule.times != Some(0)
                && rule.method.is_none_or(|wanted| wanted == method.as_str())
                && path.contains(&rule.path_contains)
                && traffic::meets(request, &rule.misbehaviour)
                && lock(&self.random).random_bool(rule.probability)
        })?;
        rule.times = rule.times.map(|times| times - 1);
        self.faults.fetch_add(1, Ordering::Relaxed);
        Some(rule.misbehaviour.clone())
    }

    /// Passes on a request whose body may be large.
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
                    // All of the body is read: else the client might see a closed connection.
                    while let Some(_part) = body.frame().await.transpose().map_err(Error::other)? {}
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

    /// Writes a part of a body into the upload's session, as a registry does that keeps what it has
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

    /// Passes on a manifest. What arrived of a client that is then gone is written all the same, as
    /// it is when it is on its way through a network.
    async fn put_manifest(
        self: Arc<Self>,
        request: Request<Incoming>,
        repository: String,
        reference: String,
        fault: Option<Misbehaviour>,
    ) -> Result<Response<Body>, Error> {
        let received_at = Timestamp::now();
        let (parts, body) = request.into_parts();
        let manifest = body.collect().await.map_err(Error::other)?.to_bytes();
        let writer = parts.headers.get(WRITER).and_then(|writer| writer.to_str().ok());
        let write = ManifestWrite {
            received_at,
            forwarded_at: None,
            answered_at: None,
            repository,
            reference,
            digest: Digest::of(&manifest).to_string(),
            status: None,
            writer: writer.and_then(TagWriter::parse),
        };
        let writing = tokio::spawn(self.write_manifest(parts, manifest, write, fault));
        writing.await.map_err(Error::other)?
    }

    async fn write_manifest(
        self: Arc<Self>,
        parts: Parts,
        manifest: Bytes,
        mut write: ManifestWrite,
        fault: Option<Misbehaviour>,
    ) -> Result<Response<Body>, Error> {
        match &fault {
            Some(Misbehaviour::ResetMidBody) => {
                self.record(write);
                return Err(closed());
            }
            // Not in its turn: others may overtake it.
            Some(Misbehaviour::Slow { millis }) => pause(*millis).await,
            Some(fault) => {
                if let Some(refusal) = refusal(fault) {
                    self.record(write);
                    return Ok(refusal);
                }
            }
            None => {}
        }
        let turn = self.turn(&write);
        let in_turn = turn.lock().await;
        write.forwarded_at = Some(Timestamp::now());
        let response = self.forward(&parts, Body::from(manifest)).await;
        if let Ok(response) = &response {
            write.answered_at = Some(Timestamp::now());
            write.status = Some(response.status().as_u16());
        }
        self.record(write);
        drop(in_turn);
        falsify(&parts.method, response?, fault.as_ref()).await
    }

    fn turn(&self, write: &ManifestWrite) -> Turn {
        let tag = (write.repository.clone(), write.reference.clone());
        Arc::clone(lock(&self.turns).entry(tag).or_default())
    }

    fn record(&self, write: ManifestWrite) {
        lock(&self.writes).push(write);
    }

    /// Sends a request on to the real registry. Where that does not answer, neither does this one.
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

/// What the service returns to close the connection.
fn closed() -> Error {
    Error::other("the script wants the connection closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}
