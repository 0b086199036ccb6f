// SPDX-License-Identifier: Apache-2.0

//! What a registry's refusal means, and whether trying again can help: decided here and nowhere
//! else. What the refusal says is read in `error_document`.

use std::time::Duration;

use http::StatusCode;
use http::header::LOCATION;
use slipway_fault::root_cause;

use super::connect::proxy_to;
use super::error_document::{ErrorCode, ErrorDocument};
use super::trust::{TlsFailure, tls_failure};

/// How much of an error's body is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// A request to a registry that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    kind: ErrorKind,
    message: String,
    /// The codes of the registry's error document, if it sent one.
    codes: Vec<ErrorCode>,
    /// The status of the answer, if there was one.
    status: Option<StatusCode>,
    retry_after: Option<Duration>,
    #[source]
    source: Option<reqwest::Error>,
}

/// The kind of failure, for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The repository, manifest or blob does not exist.
    NotFound,
    /// The credentials do not suffice, or there are none.
    Denied,
    /// The registry refuses the request itself, and would refuse it again.
    Refused,
    /// The registry's answer violates the protocol.
    Malformed,
    /// A rate limit.
    RateLimited,
    /// The registry cannot be reached, broke the connection, or has an error of its own.
    Unavailable,
    /// The connection is not secure, and will not be by itself: a certificate that is not trusted,
    /// no version of TLS in common, or TLS on one side alone.
    Insecure,
}

impl RegistryError {
    /// Returns what went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::RateLimited | ErrorKind::Unavailable)
    }

    /// Returns how long the registry asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the status of the answer; `None` if there was no answer, or a success that violates
    /// the protocol.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Returns whether the connection broke before the whole answer came, so that nobody knows
    /// whether the request was carried out.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.kind == ErrorKind::Unavailable && self.source.is_some()
    }

    /// Returns whether the registry lacks a blob that a manifest names.
    #[must_use]
    pub fn is_blob_unknown(&self) -> bool {
        self.has_code(&[ErrorCode::BlobUnknown, ErrorCode::ManifestBlobUnknown])
    }

    /// Returns whether the registry answered with one of these codes.
    pub(super) fn has_code(&self, codes: &[ErrorCode]) -> bool {
        self.codes.iter().any(|code| codes.contains(code))
    }

    /// Returns the same failure for another waiter, without its source, which the message includes.
    pub(super) fn again(&self) -> Self {
        let Self { kind, message, codes, status, retry_after, source: _ } = self;
        let (kind, status, retry_after) = (*kind, *status, *retry_after);
        let (message, codes) = (message.clone(), codes.clone());
        Self { kind, message, codes, status, retry_after, source: None }
    }

    /// A failure without an error document.
    fn new(kind: ErrorKind, message: String) -> Self {
        let (codes, status, retry_after) = (Vec::new(), None, None);
        Self { kind, message, codes, status, retry_after, source: None }
    }

    /// An answer outside the protocol.
    #[must_use]
    pub fn malformed(message: String) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// The credentials do not suffice.
    #[must_use]
    pub fn denied(message: String) -> Self {
        Self::new(ErrorKind::Denied, message)
    }

    /// The registry refuses the request, and would refuse it again.
    #[must_use]
    pub fn refused(message: String) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// The connection cannot be secured, and will not be by itself.
    #[must_use]
    pub fn insecure(message: String) -> Self {
        Self::new(ErrorKind::Insecure, message)
    }

    /// Adds a sentence for people.
    pub(super) fn with_note(self, note: &str) -> Self {
        Self { message: format!("{}; {note}", self.message), ..self }
    }

    /// A local fault while sending, such as an unreadable file.
    #[must_use]
    pub fn unavailable(message: String) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// No answer, or a broken one.
    pub(crate) fn from_transport(what: &str, error: reqwest::Error) -> Self {
        let (host, proxy) = match error.url() {
            Some(url) => (host_and_port(url), proxy_to(url)),
            None => ("the registry".to_owned(), None),
        };
        let way = proxy.map_or_else(String::new, |proxy| format!(" by way of the proxy {proxy}"));
        let error = error.without_url();
        let failure = match tls_failure(&error) {
            Some(TlsFailure::NotTls) => Self::insecure(format!(
                "{what}: {host}{way} speaks plain HTTP; allow it with --insecure-registry {host}"
            )),
            Some(TlsFailure::Lasting(sentence)) => {
                Self::insecure(format!("{what}: {host}{way} {sentence}"))
            }
            None => {
                let why = if error.is_timeout() {
                    format!("it did not answer in time{way}")
                } else if error.is_connect() {
                    format!("it cannot be reached{way} ({})", root_cause(&error))
                } else {
                    format!("the connection broke{way} ({})", root_cause(&error))
                };
                Self::new(ErrorKind::Unavailable, format!("{what}: {why}"))
            }
        };
        Self { source: Some(error), ..failure }
    }

    /// An answer with an error status. Reads as much of the body as is worth showing.
    pub(crate) async fn from_response(what: &str, response: reqwest::Response) -> Self {
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(parse_retry_after);
        let location = response.headers().get(LOCATION).filter(|_| status.is_redirection());
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let ErrorDocument { codes, text } = ErrorDocument::parse(&read_start(response).await);
        let kind = classify(status, &codes);
        let quote = match location {
            Some(location) => format!(" to {location}"),
            None if text.is_empty() => String::new(),
            None => format!(": {text}"),
        };
        let message = format!("{what}: the registry answered {status}{quote}");
        let status = Some(status);
        Self { kind, message, codes, status, retry_after, source: None }
    }
}

/// Codes for something that the registry had and lost: if sent again, the same blobs and manifest are
/// accepted. Seen with docker-registry 2.8
/// when two builds upload one layer to one repository: it rewrites the link of a blob in place, and
/// a manifest that arrives meanwhile finds the blob missing.
const LOST: [ErrorCode; 5] = [
    ErrorCode::ManifestBlobUnknown,
    ErrorCode::BlobUploadUnknown,
    ErrorCode::BlobUploadInvalid,
    ErrorCode::DigestInvalid,
    ErrorCode::SizeInvalid,
];

fn classify(status: StatusCode, codes: &[ErrorCode]) -> ErrorKind {
    // Some say so with a status of their own.
    if !status.is_success() && codes.contains(&ErrorCode::TooManyRequests) {
        return ErrorKind::RateLimited;
    }
    if status.is_client_error() && codes.iter().any(|code| LOST.contains(code)) {
        return ErrorKind::Unavailable;
    }
    match status.as_u16() {
        404 => ErrorKind::NotFound,
        401 | 403 => ErrorKind::Denied,
        429 => ErrorKind::RateLimited,
        408 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Refused,
    }
}

/// `Retry-After` in seconds, or as a date (RFC 9110, 10.2.3); a date in the past is no delay.
fn parse_retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let wait = date.timestamp().duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// Reads the start of a body. A body that breaks off is as good as one that ends there.
async fn read_start(mut response: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body
}

fn host_and_port(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or("the registry");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn a_blob_that_the_registry_lost_is_sent_again() {
        let codes = [ErrorCode::DigestInvalid, ErrorCode::ManifestBlobUnknown];
        let kind = classify(StatusCode::BAD_REQUEST, &codes);
        assert_eq!(kind, ErrorKind::Unavailable);
        let kind = classify(StatusCode::NOT_FOUND, &["MANIFEST_UNKNOWN".into()]);
        assert_eq!(kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_rate_limit_is_told_by_its_status_or_its_code() {
        for (status, code) in [(429, "UNKNOWN"), (429, "TOOMANYREQUESTS"), (403, "TOOMANYREQUESTS")]
        {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(classify(status, &[code.into()]), ErrorKind::RateLimited, "{status} {code}");
        }
    }

    #[test]
    fn only_what_can_pass_is_transient() {
        for (status, transient) in [
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (405, false),
            (413, false),
            (408, true),
            (429, true),
            (500, true),
            (502, true),
            (503, true),
            (504, true),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let kind = classify(status, &["DENIED".into()]);
            let error = RegistryError::new(kind, String::new());
            assert_eq!(error.is_transient(), transient, "{status}");
        }
    }
}
