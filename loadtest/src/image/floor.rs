// SPDX-License-Identifier: Apache-2.0

//! The floor: curl sends the bytes of an artifact to the registry.

use std::path::Path;

use anyhow::Context as _;
use slipway_proto::Digest;

use super::measure::{self, Cost};
use super::place::line;

/// Opens an upload, and returns its cost and location.
pub(super) async fn open(
    directory: &Path,
    host: &str,
    repository: &str,
    digest: Digest,
) -> anyhow::Result<(Cost, String)> {
    let url = format!("http://{host}/v2/{repository}/blobs/uploads/");
    let post = line(&["curl", "-sSf", "-X", "POST", "-D", "-", "-o", "/dev/null", &url]);
    let (cost, printed) = measure::run(directory, vec![post]).await?;
    let location = printed.lines().find_map(|line| line.strip_prefix("Location: "));
    let location = location.context("the registry names no location")?.trim();
    Ok((cost, format!("{location}&digest={digest}")))
}

/// Returns the command that sends a file there.
pub(super) fn send(file: &Path, location: &str) -> Vec<String> {
    let kind = "Content-Type: application/octet-stream";
    // Without `Expect`, curl sends at once.
    let file = file.display().to_string();
    line(&["curl", "-sSf", "-T", &file, "-H", kind, "-H", "Expect:", location])
}
