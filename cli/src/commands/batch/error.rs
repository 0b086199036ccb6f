// SPDX-License-Identifier: Apache-2.0

//! Why the builds of a file, or one line of it, cannot be submitted.

use std::path::PathBuf;

/// Why the builds of a file cannot be submitted. None of them has been.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No line is a request.
    #[error("no line is a build request; line {line}: {error}")]
    NoRequest {
        /// The first line, counted from 1.
        line: usize,
        /// Why it is none.
        error: LineError,
    },
    /// There is nothing to submit.
    #[error("there is no build in the file: write one build request on each line, as {EXAMPLE}")]
    Empty,
}

/// Why a line is no request.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It is not JSON.
    #[error("is not JSON: {0}; write one build request on each line, as {EXAMPLE}")]
    NotJson(serde_json::Error),
    /// It is JSON, but no object.
    #[error("is not a JSON object: write one build request on each line, as {EXAMPLE}")]
    NoObject,
    /// It names its artifact twice, or `file` is not a text.
    #[error("`file` is the path of the artifact, in place of `artifact`")]
    File,
}

const EXAMPLE: &str = r#"{"file": "app.jar", "image": "registry.example/team/app:1"}"#;
