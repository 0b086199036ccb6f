// SPDX-License-Identifier: Apache-2.0

//! Why the dispatcher did not do what it was asked for, in words for people.

use std::path::PathBuf;
use std::time::Duration;

use slipway_proto::api::Problem;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error(
        "cannot reach the slipway server at {server}: is it running? start one with `slipway dev` ({cause})"
    )]
    Unreachable {
        /// The address.
        server: String,
        /// Why not.
        cause: String,
    },
    /// Somebody was there, but the answer did not come.
    #[error("lost the connection to the slipway server at {server} ({cause})")]
    Lost {
        /// The address.
        server: String,
        /// What happened to it.
        cause: String,
    },
    /// The connection stands, but nothing moves on it.
    #[error("the slipway server at {server} has been silent for {seconds} s")]
    Stalled {
        /// The address.
        server: String,
        /// For how long.
        seconds: u64,
    },
    /// The server says no, and why.
    #[error("{}", describe(.problem))]
    Refused {
        /// What it says.
        problem: Box<Problem>,
        /// When to ask again, if it says so.
        retry_after: Option<Duration>,
    },
    /// An answer that no dispatcher gives.
    #[error(
        "{server} did not answer as a slipway server does (HTTP status {status}): is the address right?"
    )]
    Unexpected {
        /// The address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// Why it cannot be read.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The artifact cannot be read.
    #[error("cannot read {}", path.display())]
    ReadArtifact {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The token cannot be sent.
    #[error("the token holds characters that cannot stand in a header")]
    InvalidToken,
    /// The idempotency key cannot be sent.
    #[error("the idempotency key holds characters that cannot stand in a header")]
    InvalidKey,
    /// There is no TLS.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
}

impl ClientError {
    /// Returns the server's code for why it refuses, if it does.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.code),
            _ => None,
        }
    }

    /// Returns whether the same request may succeed later: the server is busy or away.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => is_busy(problem.status),
            // A gateway in front of a dispatcher that is away.
            Self::Unexpected { status, .. } => is_busy(*status),
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Stalled { .. } => true,
            _ => false,
        }
    }
}

fn is_busy(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// The detail, which says everything. Several mistakes stand below the title, each on a line of its
/// own.
#[must_use]
pub fn describe(problem: &Problem) -> String {
    if problem.errors.len() > 1 {
        let mistakes = problem.errors.iter().map(|mistake| format!("\n  {mistake}"));
        return format!("{}:{}", problem.title, mistakes.collect::<String>());
    }
    let only = problem.errors.first().map(ToString::to_string);
    match (problem.detail.as_str(), only) {
        ("", Some(mistake)) => mistake,
        ("", None) => problem.title.clone(),
        (detail, _) => detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::FieldError;

    use super::*;

    fn problem(status: u16) -> ClientError {
        let mistake = |field: &str, detail: &str| FieldError {
            field: field.into(),
            code: "x".into(),
            detail: detail.into(),
        };
        let problem = Problem {
            r#type: "/problems/invalid_request".into(),
            title: "Invalid request".into(),
            status,
            detail: "correct 2 fields".into(),
            code: "invalid_request".into(),
            errors: vec![mistake("image", "is required"), mistake("", "is too large")],
        };
        ClientError::Refused { problem: Box::new(problem), retry_after: None }
    }

    #[test]
    fn every_mistake_stands_on_its_own_line() {
        assert_eq!(
            problem(422).to_string(),
            "Invalid request:\n  image: is required\n  is too large"
        );
    }

    #[test]
    fn a_single_mistake_is_not_told_twice() {
        let mistake = FieldError { field: "a".into(), code: "x".into(), detail: "is b".into() };
        let ClientError::Refused { mut problem, .. } = problem(422) else {
            panic!("it is refused")
        };
        problem.detail = mistake.to_string();
        problem.errors = vec![mistake];
        assert_eq!(describe(&problem), "a: is b");
    }

    #[test]
    fn a_refusal_is_final_unless_the_server_is_busy() {
        assert!(!problem(422).is_transient());
        assert!(problem(503).is_transient());
    }
}
