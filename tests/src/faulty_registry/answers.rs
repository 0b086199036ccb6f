// SPDX-License-Identifier: Apache-2.0

//! The answers of a registry that misbehaves.

use std::io::Error;

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use reqwest::Body;
use serde_json::json;
use slipway_proto::Digest;

use super::{DIGEST, Misbehaviour, closed};

/// The smallest chunk that a registry accepts, except for the last of an upload.
const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Sends clients that the real registry sends to itself to this one.
pub(super) fn relocate(
    headers: &mut HeaderMap,
    (real, scheme): (&str, &str),
    host: Option<&HeaderValue>,
) {
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let path = location.and_then(|location| location.strip_prefix("http://"));
    let path = path.and_then(|location| location.split_once('/')).filter(|(at, _)| *at == real);
    let host = host.and_then(|host| host.to_str().ok());
    if let (Some((_real, path)), Some(host)) = (path, host) {
        let location = format!("{scheme}://{host}/{path}").parse().expect("it was one before");
        headers.insert(header::LOCATION, location);
    }
}

/// Returns the answer of a registry that refuses, if that is its misbehaviour.
pub(super) fn refusal(fault: &Misbehaviour) -> Option<Response<Body>> {
    let (status, code) = match fault {
        Misbehaviour::Unauthorized => {
            return Some(unauthorized(HeaderValue::from_static("Basic realm=\"tests\"")));
        }
        Misbehaviour::Forbidden => (403, "DENIED"),
        Misbehaviour::TooManyRequests { .. } => (429, "TOOMANYREQUESTS"),
        Misbehaviour::ServerError(status) => (*status, "UNKNOWN"),
        Misbehaviour::BlobUnknown => (400, "MANIFEST_BLOB_UNKNOWN"),
        Misbehaviour::Answer { status, code, headers } => {
            let mut response = refused(*status, code);
            for (name, value) in headers {
                let value = HeaderValue::try_from(value).expect("rules have headers of HTTP");
                response.headers_mut().insert(*name, value);
            }
            return Some(response);
        }
        _ => return None,
    };
    let mut response = refused(status, code);
    if let Misbehaviour::TooManyRequests { retry_after_s } = fault {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
    }
    Some(response)
}

/// Returns the answer to an unauthorized request, with the challenge.
pub(super) fn unauthorized(challenge: HeaderValue) -> Response<Body> {
    let mut response = refused(401, "UNAUTHORIZED");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn refused(status: u16, code: &str) -> Response<Body> {
    let document = json!({"errors": [{"code": code, "message": "the script wants it"}]});
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).expect("rules have statuses of HTTP");
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Spoils the answer to a request that was carried out, if that is the misbehaviour.
pub(super) async fn falsify(
    method: &Method,
    mut response: Response<Body>,
    fault: Option<&Misbehaviour>,
) -> Result<Response<Body>, Error> {
    match fault {
        Some(Misbehaviour::LoseAnswer) => {
            let _unseen = response.into_body().collect().await;
            Err(closed())
        }
        Some(Misbehaviour::WrongDigest) if response.status().is_success() => {
            if method == Method::GET {
                return Ok(response.map(flip_first_byte));
            }
            let wrong = Digest::of(b"something else").to_string();
            let wrong = HeaderValue::try_from(wrong).expect("digests are ASCII");
            response.headers_mut().insert(DIGEST, wrong);
            Ok(response)
        }
        Some(Misbehaviour::SucceedWith(status)) if response.status().is_success() => {
            *response.status_mut() = StatusCode::from_u16(*status).expect("a status of HTTP");
            Ok(response)
        }
        Some(Misbehaviour::SendUploadsTo(address)) => {
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            if let Some((_, path)) = location.and_then(|location| location.split_once("/v2/")) {
                let location = format!("{address}/v2/{path}").parse().expect("it was one before");
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        Some(Misbehaviour::NameNoLocation) => {
            response.headers_mut().remove(header::LOCATION);
            Ok(response)
        }
        Some(Misbehaviour::ChunksOfAtLeast { bytes }) => {
            response.headers_mut().insert(MIN_CHUNK, HeaderValue::from(*bytes));
            Ok(response)
        }
        _ => Ok(response),
    }
}

fn flip_first_byte(body: Body) -> Body {
    let mut flipped = false;
    Body::wrap(body.map_frame(move |frame| {
        frame.map_data(|data| {
            let mut data = BytesMut::from(data);
            if let Some(byte) = data.first_mut().filter(|_| !flipped) {
                *byte ^= 1;
                flipped = true;
            }
            data.freeze()
        })
    }))
}
