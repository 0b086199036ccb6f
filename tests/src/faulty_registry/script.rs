// SPDX-License-Identifier: Apache-2.0

//! What a registry does instead of what it was asked to, and when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Request;
use hyper::body::Incoming;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::{lock, traffic};

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
    /// Writes a manifest, and closes the connection without an answer when it is released.
    LoseAnswerLater,
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
    /// Lets every token expire that was given out so far, answers 401, and does nothing; only
    /// uploads that carry the byte at the offset are met. The registry must require tokens.
    ExpireTokens {
        /// The offset in the blob.
        offset: u64,
        /// Whether it answers without having read the body, as most registries do.
        is_early: bool,
    },
    /// Does it, and says that it takes no chunk of fewer bytes, but for the last of a blob.
    ChunksOfAtLeast {
        /// The fewest bytes.
        bytes: u64,
    },
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

    /// Returns what the rules say about a request, and counts it.
    pub(super) fn draw(&self, request: &Request<Incoming>) -> Option<Misbehaviour> {
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
}
