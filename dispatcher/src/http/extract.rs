// SPDX-License-Identifier: Apache-2.0

//! Reads path, query, headers and body of a request, with a problem for each kind of mistake.
//!
//! Written by hand instead of using axum's extractors: those answer in plain text, stop at the
//! first mistake, and accept other spellings of a build id than the one used in subjects.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Request, Uri};
use slipway_proto::{BuildId, Digest, FieldError, ProjectName, WorkerId};

use crate::http::problem::{ApiError, Code};

/// The largest JSON body: as large as the largest encoded request.
const MAX_JSON: usize = slipway_proto::codec::MAX_ENCODED;

/// The default and the largest size of a page.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// How long a client may take to send the body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The project in the path.
pub(crate) struct InProject(pub(crate) ProjectName);

/// The project and the build in the path.
pub(crate) struct OfBuild(pub(crate) ProjectName, pub(crate) BuildId);

/// The project and the name of a dead letter in the path: a build's id, or the text in its place.
pub(crate) struct OfLetter(pub(crate) ProjectName, pub(crate) String);

/// The worker in the path.
pub(crate) struct OfWorker(pub(crate) WorkerId);

/// The project and the artifact's digest in the path.
pub(crate) struct OfArtifact(pub(crate) ProjectName, pub(crate) Digest);

async fn path_value<T>(parts: &mut Parts, name: &str, code: Code) -> Result<T, ApiError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let values = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|error| ApiError::new(code, error.to_string()))?;
    let value = values.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    value.parse().map_err(|error: T::Err| ApiError::new(code, error.to_string()))
}

impl<S: Sync> FromRequestParts<S> for InProject {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        path_value(parts, "project", Code::InvalidName).await.map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for OfBuild {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let project = path_value(parts, "project", Code::InvalidName).await?;
        Ok(Self(project, path_value(parts, "build", Code::InvalidBuildId).await?))
    }
}

impl<S: Sync> FromRequestParts<S> for OfLetter {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let project = path_value(parts, "project", Code::InvalidName).await?;
        Ok(Self(project, path_value(parts, "build", Code::InvalidBuildId).await?))
    }
}

impl<S: Sync> FromRequestParts<S> for OfWorker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        path_value(parts, "worker", Code::InvalidName).await.map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for OfArtifact {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let project = path_value(parts, "project", Code::InvalidName).await?;
        Ok(Self(project, path_value(parts, "digest", Code::InvalidDigest).await?))
    }
}

/// An empty query, for a path that takes no parameters.
pub(crate) struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Parameters::read(&parts.uri, &[]).finish().map(|()| Self)
    }
}

/// The query parameters of a request, with every mistake found so far.
pub(crate) struct Parameters {
    values: BTreeMap<String, String>,
    errors: Vec<FieldError>,
}

impl Parameters {
    /// Reads the query; a parameter that is not among `known`, or is given twice, is a mistake.
    pub(crate) fn read(uri: &Uri, known: &[&str]) -> Self {
        let mut parameters = Self { values: BTreeMap::new(), errors: Vec::new() };
        let query = uri.query().unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let detail = match known {
                    [] => "this path takes no parameters".to_owned(),
                    known => format!("there is no such parameter: use {}", known.join(", ")),
                };
                parameters.mistake(&name, "unknown_parameter", detail);
            } else if parameters.values.contains_key(name.as_ref()) {
                parameters.mistake(&name, "repeated_parameter", "is given twice".to_owned());
            } else {
                parameters.values.insert(name.into_owned(), value.into_owned());
            }
        }
        parameters
    }

    /// Adds a mistake.
    pub(crate) fn mistake(&mut self, name: &str, code: &str, detail: String) {
        self.errors.push(FieldError { field: name.to_owned(), code: code.to_owned(), detail });
    }

    /// Returns a parameter as text. An empty one counts as missing.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Returns a parameter, parsed.
    pub(crate) fn parsed<T>(&mut self, name: &str, code: &str) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        match self.text(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let error: T::Err = error;
                self.mistake(name, code, error.to_string());
                None
            }
        }
    }

    /// Returns the size of the page.
    pub(crate) fn limit(&mut self) -> usize {
        let limit = self.parsed("limit", "invalid_limit").unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let detail = format!("must be a number from 1 to {MAX_LIMIT}");
            self.mistake("limit", "invalid_limit", detail);
        }
        limit
    }

    /// Returns whether a switch is on.
    pub(crate) fn switch(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).as_deref() {
            None => default,
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(_) => {
                self.mistake(name, "invalid_switch", "must be true or false".to_owned());
                default
            }
        }
    }

    /// Returns the mistakes as an error, if there are any.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::fields(Code::InvalidQuery, self.errors))
    }
}

/// Reads `Content-Length`, which hyper has checked already.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a header as text; a header that is not ASCII is `Some("")`, which nothing accepts.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Returns whether the client prefers a stream of events to plain text.
pub(crate) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let accept = header(headers, "accept").unwrap_or_default();
    accept.split(',').any(|range| {
        range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// Reads a JSON body.
pub(crate) async fn json(request: Request<Body>) -> Result<serde_json::Value, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::RequestTooLarge,
            format!(
                "the request is larger than the limit of {MAX_JSON} bytes: shorten env, labels or \
                annotations"
            ),
        )
    };
    let body = json_bytes(request, MAX_JSON, too_large).await?;
    serde_json::from_slice(&body).map_err(|error| malformed(&error))
}

/// Reads the bytes of a JSON body of at most `limit` bytes.
pub(crate) async fn json_bytes(
    request: Request<Body>,
    limit: usize,
    too_large: impl Fn() -> ApiError,
) -> Result<Bytes, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "send the request as JSON, with the header Content-Type: application/json",
        ));
    }
    if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let broken =
        || ApiError::new(Code::MalformedJson, "the request body was cut off: send it again");
    let read = axum::body::to_bytes(request.into_body(), limit);
    let read = tokio::time::timeout(BODY_DEADLINE, read).await.map_err(|_elapsed| broken())?;
    read.map_err(|error| {
        let limit = std::error::Error::source(&error)
            .is_some_and(|source| source.to_string().contains("length limit"));
        if limit {
            return too_large();
        }
        broken()
    })
}

/// The answer to a body that is not JSON.
pub(crate) fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(Code::MalformedJson, format!("the body is not JSON: {error}"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_query_is_found() {
        let uri = "/x?state=a&state=b&limitt=1&follow=maybe&limit=x".parse().expect("a URI");
        let mut parameters = Parameters::read(&uri, &["state", "follow", "limit"]);
        parameters.switch("follow", false);
        assert_eq!(parameters.parsed::<u32>("limit", "invalid_limit"), None);
        let codes: Vec<_> = parameters.errors.iter().map(|error| error.code.as_str()).collect();
        assert_eq!(
            codes,
            ["repeated_parameter", "unknown_parameter", "invalid_switch", "invalid_limit"]
        );
    }

    #[test]
    fn json_goes_by_several_names() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
        assert!(is("application/problem+json"));
        assert!(!is("text/plain") && !is("application/x-www-form-urlencoded"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
