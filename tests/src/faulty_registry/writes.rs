// SPDX-License-Identifier: Apache-2.0

//! The manifests that are written to a registry, in the order in which they take effect.

use std::collections::HashMap;
use std::io::Error;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use reqwest::Body;
use serde::{Deserialize, Serialize};
use slipway_proto::{Digest, Timestamp};

use super::answers::{falsify, refusal};
use super::{Misbehaviour, Shared, closed, lock, pause};

/// The header in which a writer of tags names itself.
const WRITER: &str = "slipway-tag-write";

/// An attempted write of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestWrite {
    /// When the request arrived.
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
    /// The registry's status. The client may have got another one, or none. If the write was
    /// forwarded and not answered, nobody knows whether it happened.
    pub status: Option<u16>,
    /// The writer, if it named itself.
    pub writer: Option<TagWriter>,
}

/// The build and epoch that write a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagWriter {
    /// The build.
    pub build: String,
    /// Its epoch.
    pub epoch: u64,
    /// The build whose image is written, if it is not the writer's own.
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

/// Held while a manifest is written, so that writes of one tag come one after the other.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The attempted writes of manifests.
#[derive(Default)]
pub(super) struct Writes {
    done: Mutex<Vec<ManifestWrite>>,
    turns: Mutex<HashMap<(String, String), Turn>>,
}

impl Writes {
    pub(super) fn done(&self) -> Vec<ManifestWrite> {
        lock(&self.done).clone()
    }

    fn turn(&self, write: &ManifestWrite) -> Turn {
        let tag = (write.repository.clone(), write.reference.clone());
        Arc::clone(lock(&self.turns).entry(tag).or_default())
    }

    fn record(&self, write: ManifestWrite) {
        lock(&self.done).push(write);
    }
}

/// Returns repository and reference of the manifest that a request writes.
pub(super) fn written_manifest(request: &Request<Incoming>) -> Option<(String, String)> {
    let path = request.uri().path().strip_prefix("/v2/")?;
    let (repository, reference) = path.rsplit_once("/manifests/")?;
    let put = request.method() == Method::PUT;
    put.then(|| (repository.to_owned(), reference.to_owned()))
}

impl Shared {
    /// Passes on a manifest. It is written even if its client is gone by then, like a request that
    /// is already on its way through a network.
    pub(super) async fn put_manifest(
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
                self.writes.record(write);
                return Err(closed());
            }
            Some(Misbehaviour::Immutable(status)) if self.exists(&parts).await => {
                self.writes.record(write);
                return Ok(
                    refusal(&Misbehaviour::answer(*status, "TAG_INVALID")).expect("it is one")
                );
            }
            // Outside its turn, so that others may overtake it.
            Some(Misbehaviour::Slow { millis }) => pause(*millis).await,
            Some(fault) => {
                if let Some(refusal) = refusal(fault) {
                    self.writes.record(write);
                    return Ok(refusal);
                }
            }
            None => {}
        }
        let turn = self.writes.turn(&write);
        let in_turn = turn.lock().await;
        write.forwarded_at = Some(Timestamp::now());
        let response = self.forward(&parts, Body::from(manifest)).await;
        if let Ok(response) = &response {
            write.answered_at = Some(Timestamp::now());
            write.status = Some(response.status().as_u16());
        }
        self.writes.record(write);
        drop(in_turn);
        if let Some(Misbehaviour::LoseAnswerLater) = fault {
            self.gate.opened().await;
            return Err(closed());
        }
        falsify(&parts.method, response?, fault.as_ref()).await
    }
}
