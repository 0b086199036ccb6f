// SPDX-License-Identifier: Apache-2.0

//! Values of the configuration that must not be printed: passwords and tokens ([`Secret`]), and
//! URLs that may contain them ([`SecretUrl`]).
//!
//! Every way to print one shows [`REDACTED`] instead, so that a log line, an error or a printed
//! configuration cannot give one away by accident; [`Secret::expose`] is the only way to the value
//! and easy to search for. A crate of its own, because queue, registry and client hold such values
//! too. Why not the `secrecy` crate: `docs/decisions/0019-secrets.md`.

use std::fmt;

use serde::{Serialize, Serializer};

/// What is printed in place of a secret.
pub const REDACTED: &str = "redacted";

/// A password, token or key.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Returns the value, for the one place that sends it to where it belongs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// A URL, a path, or several URLs separated by commas, of which each may contain a user, a password
/// or a query with keys. Printed without these.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Returns the URL with everything in it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redact(&self.0))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Removes user, password and query (where object stores take keys) from URLs that are separated
/// by commas.
fn redact(urls: &str) -> String {
    let one = |url: &str| {
        let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?redacted"));
        let (scheme, rest) = url.split_once("://").map_or(("", url), |(s, r)| (s, r));
        let separator = if scheme.is_empty() { "" } else { "://" };
        let (user, host) = rest.rsplit_once('@').map_or(("", rest), |(_, h)| ("redacted@", h));
        format!("{scheme}{separator}{user}{host}{query}")
    };
    urls.split(',').map(|url| one(url.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_to_print_a_secret_shows_it() {
        let secret = Secret::from("hunter2".to_owned());
        let json = serde_json::to_string(&secret).expect("a string");
        for printed in [format!("{secret}"), format!("{secret:?}"), format!("{secret:#?}"), json] {
            assert!(!printed.contains("hunter2") && printed.contains(REDACTED), "{printed}");
        }
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn no_way_to_print_a_url_shows_its_credentials() {
        let url = SecretUrl::from("nats://user:hunter2@one:4222,s3://key:hunter2@b/x?k=hunter2");
        let json = serde_json::to_string(&url).expect("a string");
        for printed in [format!("{url}"), format!("{url:?}"), json] {
            assert!(!printed.contains("hunter2") && printed.contains("one:4222"), "{printed}");
        }
    }

    #[test]
    fn everything_but_the_credentials_of_a_url_is_shown() {
        assert_eq!(redact("nats://u:p@a:4222, b:4222"), "nats://redacted@a:4222,b:4222");
        assert_eq!(redact("u:p@a"), "redacted@a");
        assert_eq!(redact("s3://k:s@bucket/x?secret=y"), "s3://redacted@bucket/x?redacted");
        assert_eq!(redact("/var/lib/slipway"), "/var/lib/slipway");
    }
}
