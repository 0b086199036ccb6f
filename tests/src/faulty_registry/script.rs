// SPDX-License-Identifier: Apache-2.0

//! How and when a registry misbehaves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Request;
use hyper::body::Incoming;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use super::{lock, traffic};

/// A way to misbehave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Misbehaviour {
    /// Answers 401, and does nothing.
    Unauthorized,
    /// Answers 403 with the code `DENIED`, and does nothing.
    Forbidden,
    /// Answers 429, and does nothing.
    TooManyRequests {
        /// The value of `Retry-After`.
        retry_after_s: u64,
    },
    /// Answers this status, and does nothing.
    ServerError(u16),
    /// Answers this status with a code and headers, and does nothing.
    Answer {
        /// The status.
        status: u16,
        /// The code in the error document.
        code: &'static str,
        /// More headers.
        headers: Vec<(&'static str, String)>,
    },
    /// Carries out the request, and answers success with this status instead.
    SucceedWith(u16),
    /// Keeps what is under a manifest's tag or digest: answers this status to whoever writes one that
    /// exists, and does nothing.
    Immutable(u16),
    /// Carries out the request, and names this address, `<scheme>://<host>:<port>`, as the one where
    /// an upload goes on.
    SendUploadsTo(String),
    /// Carries out the request, and names no address where an upload goes on.
    NameNoLocation,
    /// Waits, then carries out the request. A manifest arrives even if its client is gone by then.
    Slow {
        /// For how long.
        millis: u64,
    },
    /// Reads a part of the body, closes the connection, and does nothing.
    ResetMidBody,
    /// Carries out the request, and closes the connection without an answer.
    LoseAnswer,
    /// Writes a manifest, and closes the connection without an answer once it is released.
    LoseAnswerLater,
    /// Carries out the request, and answers with the digest of something else. A manifest or blob
    /// that is read has a wrong byte instead, under the right digest.
    WrongDigest,
    /// Keeps the bytes of an upload before this offset in its session, and closes the connection.
    /// Applies only to requests that carry the byte at the offset. For a GET, passes on the bytes
    /// before the offset.
    KeepUpTo {
        /// The offset in the blob.
        offset: u64,
    },
    /// Passes on a body up to this offset, and the rest once it is released: the body of an upload,
    /// or of the answer to a GET. Applies only to uploads that carry the byte at the offset.
    HoldAt {
        /// The offset in the blob.
        offset: u64,
    },
    /// Answers 400 with the code `MANIFEST_BLOB_UNKNOWN`, and does nothing.
    BlobUnknown,
    /// Expires every token given out so far, answers 401, and does nothing. Applies only to uploads
    /// that carry the byte at the offset. The registry must require tokens.
    ExpireTokens {
        /// The offset in the blob.
        offset: u64,
        /// Whether it answers without having read the body, as most registries do.
        is_early: bool,
    },
    /// Carries out the request, and announces that it accepts no smaller chunk, except for the last
    /// of a blob.
    ChunksOfAtLeast {
        /// The smallest chunk.
        bytes: u64,
    },
}

impl Misbehaviour {
    /// Answers this status with a code, and does nothing.
    #[must_use]
    pub fn answer(status: u16, code: &'static str) -> Self {
        Self::Answer { status, code, headers: Vec::new() }
    }
}

/// When the registry misbehaves: the first rule that applies to a request decides.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The method of the requests it applies to, or all.
    pub method: Option<&'static str>,
    /// A part of their path, or of the query behind it.
    pub path_contains: String,
    /// The misbehaviour.
    pub misbehaviour: Misbehaviour,
    /// How many times it happens, or always.
    pub times: Option<u32>,
    /// The probability of each time, from 0 to 1.
    pub probability: f64,
}

/// The rules of a registry, and how often they applied.
pub(super) struct Script {
    rules: Mutex<Vec<Rule>>,
    random: Mutex<StdRng>,
    faults: AtomicU64,
}

impl Script {
    pub(super) fn with_seed(seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { rules: Mutex::default(), random, faults: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, rules: Vec<Rule>) {
        *lock(&self.rules) = rules;
    }

    pub(super) fn add(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Returns the misbehaviour for a request, and counts it.
    pub(super) fn draw(&self, request: &Request<Incoming>) -> Option<Misbehaviour> {
        let (method, path) = (request.method(), request.uri().to_string());
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
}
