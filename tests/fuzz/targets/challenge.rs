// SPDX-License-Identifier: Apache-2.0

//! Any bytes as `WWW-Authenticate` headers, one on each line.

#![no_main]

use http::HeaderMap;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use libfuzzer_sys::fuzz_target;

// The file and not its crate: that would bring an HTTP client and TLS, minutes of compiling.
#[path = "../../../crates/registry/src/challenge.rs"]
mod challenge;

use challenge::{Challenge, Scheme, with_named};

fuzz_target!(|bytes: &[u8]| {
    let lines = || bytes.split(|byte| *byte == b'\n');
    let Some(challenge) = read(lines()) else { return };
    for scope in &challenge.scopes {
        assert!(!scope.is_empty() && !scope.contains(char::is_whitespace), "{scope:?}");
    }
    assert_eq!(
        read([write(&challenge).as_bytes()]).as_ref(),
        Some(&challenge),
        "written, it differs"
    );
    // One that asks for a token counts before one that asks for a password.
    if challenge.scheme != Scheme::Basic {
        let first: &[u8] = b"Basic realm=\"x\"";
        assert_eq!(read(std::iter::once(first).chain(lines())).as_ref(), Some(&challenge));
    }
    // What is asked for stays, and everything that is named is asked for.
    let asked = vec!["repository:team/app:pull,push".to_owned()];
    let all = with_named(asked.clone(), &challenge.scopes);
    assert!(all.starts_with(&asked));
    assert_eq!(with_named(all.clone(), &challenge.scopes), all, "something was left out");
});

fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<Challenge> {
    let mut headers = HeaderMap::new();
    for value in lines.into_iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(WWW_AUTHENTICATE, value);
    }
    Challenge::of(&headers)
}

fn write(challenge: &Challenge) -> String {
    let mut parameters = Vec::new();
    let mut parameter = |name: &str, value: &str| {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        parameters.push(format!("{name}=\"{escaped}\""));
    };
    let scheme = match &challenge.scheme {
        Scheme::Basic => {
            parameter("realm", "");
            "Basic"
        }
        Scheme::Bearer { realm, service } => {
            parameter("realm", realm.as_str());
            if let Some(service) = service {
                parameter("service", service);
            }
            "Bearer"
        }
    };
    parameter("scope", &challenge.scopes.join(" "));
    if challenge.is_insufficient {
        parameter("error", "insufficient_scope");
    }
    format!("{scheme} {}", parameters.join(", "))
}
