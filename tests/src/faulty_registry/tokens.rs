// SPDX-License-Identifier: Apache-2.0

//! Tokens that a registry asks for, gives out and lets expire (distribution specification, "Token
//! authentication"). They name nobody and allow everything, because only their expiry is tested.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::Response;
use hyper::header::{self, HeaderMap, HeaderValue};
use reqwest::Body;
use serde_json::json;

use super::answers;

/// The path that gives out tokens.
pub(super) const PATH: &str = "/token";

/// The tokens of a registry. All tokens given out between two expiries are the same.
#[derive(Default)]
pub(super) struct Tokens {
    are_required: AtomicBool,
    expiries: AtomicU64,
}

impl Tokens {
    pub(super) fn require(&self) {
        self.are_required.store(true, Ordering::Relaxed);
    }

    /// Expires all tokens given out so far.
    pub(super) fn expire(&self) {
        self.expiries.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether a request may be answered.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let token = headers.get(header::AUTHORIZATION).and_then(|token| token.to_str().ok());
        !self.are_required.load(Ordering::Relaxed)
            || token.and_then(|token| token.strip_prefix("Bearer ")) == Some(&self.valid())
    }

    /// Returns the answer with a token.
    pub(super) fn give(&self) -> Response<Body> {
        Response::new(Body::from(json!({"token": self.valid()}).to_string()))
    }

    fn valid(&self) -> String {
        format!("token-{}", self.expiries.load(Ordering::Relaxed))
    }
}

/// Returns the answer to a request without a valid token: the challenge.
pub(super) fn challenge(headers: &HeaderMap, scheme: &str) -> Response<Body> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let challenge = format!("Bearer realm=\"{scheme}://{host}{PATH}\",service=\"tests\"");
    let challenge = HeaderValue::try_from(challenge).expect("hosts are ASCII");
    answers::unauthorized(challenge)
}
