// SPDX-License-Identifier: Apache-2.0

//! The requests through a registry, and bodies that are held on their way.

use std::collections::HashMap;
use std::io::Error;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::watch;

use super::{Misbehaviour, lock};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its path, with the query.
    pub path: String,
    /// Where in the blob its body begins, or the requested range begins, if it said so.
    pub start: Option<u64>,
    /// How many bytes of its body arrived so far. A manifest is not counted.
    pub body_bytes: u64,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
}

struct Entry {
    seen: Seen,
    body_bytes: Arc<AtomicU64>,
    status: AtomicU16,
}

/// The requests of a registry, and the new addresses of uploads after a break.
#[derive(Default)]
pub(super) struct Traffic {
    entries: Mutex<Vec<Entry>>,
    /// New addresses of uploads that a client does not know yet, by the old ones.
    moved: Mutex<HashMap<String, String>>,
}

impl Traffic {
    pub(super) fn seen(&self) -> Vec<Seen> {
        let seen = |entry: &Entry| {
            let status = entry.status.load(Ordering::Relaxed);
            Seen {
                body_bytes: entry.body_bytes.load(Ordering::Relaxed),
                status: (status != 0).then_some(status),
                ..entry.seen.clone()
            }
        };
        lock(&self.entries).iter().map(seen).collect()
    }

    /// Notes a request and returns its number.
    pub(super) fn note(&self, request: &Request<Incoming>) -> usize {
        let headers = request.headers();
        let has_range = headers.contains_key(header::CONTENT_RANGE);
        let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let wanted = wanted.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let seen = Seen {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            start: match wanted {
                Some((first, _last)) => first.parse().ok(),
                None => has_range.then(|| range(headers).0),
            },
            body_bytes: 0,
            status: None,
        };
        let mut entries = lock(&self.entries);
        entries.push(Entry { seen, body_bytes: Arc::default(), status: AtomicU16::new(0) });
        entries.len() - 1
    }

    pub(super) fn answered(&self, number: usize, status: StatusCode) {
        lock(&self.entries)[number].status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Counts the bytes of a request's body as they arrive.
    pub(super) fn count(
        &self,
        number: usize,
        body: Incoming,
    ) -> impl Stream<Item = Result<Bytes, hyper::Error>> + Send + use<> {
        let counter = Arc::clone(&lock(&self.entries)[number].body_bytes);
        body.into_data_stream().inspect(move |piece| {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            counter.fetch_add(length, Ordering::Relaxed);
        })
    }

    /// Reads and discards a body, and counts its bytes.
    pub(super) async fn drain(&self, number: usize, body: Incoming) -> Result<(), Error> {
        let mut body = std::pin::pin!(self.count(number, body));
        while let Some(_part) = body.next().await.transpose().map_err(Error::other)? {}
        Ok(())
    }

    /// Records that an upload continues at another address.
    pub(super) fn moved(&self, from: &str, to: String) {
        lock(&self.moved).insert(from.to_owned(), to);
    }

    /// Sends a request for a moved upload to its new address.
    pub(super) fn go_on(&self, parts: &mut Parts) {
        let (uri, digest) = split_digest(&parts.uri);
        let Some(to) = lock(&self.moved).get(&uri).cloned() else { return };
        let digest = digest.map_or_else(String::new, |digest| format!("&digest={digest}"));
        parts.uri = format!("{to}{digest}").parse().expect("it is made of addresses");
    }
}

/// Returns the address of an upload, and the digest that closes it.
pub(super) fn split_digest(uri: &Uri) -> (String, Option<String>) {
    let text = uri.to_string();
    match text.split_once("&digest=") {
        Some((address, digest)) => (address.to_owned(), Some(digest.to_owned())),
        None => (text, None),
    }
}

/// Returns where in the blob a request's body begins and ends.
pub(super) fn range(headers: &HeaderMap) -> (u64, u64) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match text(header::CONTENT_RANGE).and_then(|range| range.split_once('-')) {
        Some((first, last)) => (number(first), number(last) + 1),
        None => (0, text(header::CONTENT_LENGTH).map_or(0, number)),
    }
}

/// Returns whether a misbehaviour at an offset of an upload applies to this request.
pub(super) fn meets(request: &Request<Incoming>, misbehaviour: &Misbehaviour) -> bool {
    let (Misbehaviour::KeepUpTo { offset }
    | Misbehaviour::HoldAt { offset }
    | Misbehaviour::ExpireTokens { offset, .. }) = misbehaviour
    else {
        return true;
    };
    let (start, end) = range(request.headers());
    request.method() == Method::GET || (start..end).contains(offset)
}

/// Reads the first bytes of a body.
pub(super) async fn first(
    body: impl Stream<Item = Result<Bytes, hyper::Error>>,
    length: u64,
) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(length).expect("it fits into memory");
    let mut body = std::pin::pin!(body);
    let mut read = Vec::new();
    while read.len() < length {
        let piece = body.next().await.ok_or_else(|| Error::other("the client went"))?;
        read.extend_from_slice(&piece.map_err(Error::other)?);
    }
    read.truncate(length);
    Ok(read)
}

/// Passes on a number of bytes, then fails.
pub(super) fn cut<E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static>(
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    length: u64,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    futures::stream::unfold((body.boxed(), length), |(mut body, left)| async move {
        if left == 0 {
            return Some((Err(super::closed()), (body, left)));
        }
        let piece = body.next().await?.map_err(Error::other).map(|mut piece| {
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            piece
        });
        let passed = piece.as_ref().map_or(left, |piece| piece.len() as u64);
        Some((piece, (body, left - passed)))
    })
}

/// Where bodies wait.
pub(super) struct Gate {
    holding: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { holding: watch::Sender::new(false), open: watch::Sender::new(false) }
    }
}

impl Gate {
    pub(super) async fn held(&self) {
        let mut holding = self.holding.subscribe();
        holding.wait_for(|holding| *holding).await.expect("the gate stands");
    }

    pub(super) fn release(&self) {
        self.open.send_replace(true);
    }

    /// Waits until the gate is open.
    pub(super) async fn opened(&self) {
        self.holding.send_replace(true);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate stands");
    }

    /// Passes on a number of bytes, and the rest when the gate is open.
    pub(super) fn hold<E: Send + 'static, S>(
        &self,
        body: S,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes, E>> + Send + use<E, S>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    {
        let (holding, open) = (self.holding.clone(), self.open.subscribe());
        let state = (body.boxed(), Bytes::new(), length, holding, open);
        futures::stream::unfold(
            state,
            |(mut body, mut rest, mut left, holding, mut open)| async move {
                if rest.is_empty() {
                    rest = match body.next().await? {
                        Ok(piece) => piece,
                        error => return Some((error, (body, rest, left, holding, open))),
                    };
                }
                if left == 0 {
                    holding.send_replace(true);
                    // A dropped gate holds nothing.
                    let _opened = open.wait_for(|open| *open).await;
                    left = u64::MAX;
                }
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                left -= length as u64;
                let piece = rest.split_to(length);
                Some((Ok(piece), (body, rest, left, holding, open)))
            },
        )
    }
}
