// SPDX-License-Identifier: Apache-2.0

//! Why the builds of a file cannot be submitted.

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
    /// A line is not JSON.
    #[error(
        "line {line} is not JSON: {source}; write one build request on each line, as \
        {EXAMPLE}"
    )]
    Line {
        /// Which, counted from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// A line is JSON, but not a request.
    #[error("line {0} is not a JSON object: write one build request on each line, as {EXAMPLE}")]
    NoObject(usize),
    /// A line names its artifact twice, or `file` is not a text.
    #[error("line {0}: `file` is the path of the artifact, in place of `artifact`")]
    File(usize),
    /// There is nothing to submit.
    #[error("there is no build in the file: write one build request on each line, as {EXAMPLE}")]
    Empty,
}

const EXAMPLE: &str = r#"{"file": "app.jar", "image": "registry.example/team/app:1"}"#;
