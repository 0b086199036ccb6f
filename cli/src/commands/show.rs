// SPDX-License-Identifier: Apache-2.0

//! What commands that only read have in common, and `slipway list`.

use serde::Serialize;
use slipway_proto::Timestamp;
use slipway_proto::api::{BuildList, BuildView, StateName};

use crate::args::ListArgs;
use crate::client::{Client, ClientError, ListQuery};
use crate::exit::Exit;
use crate::output::Output;
use crate::render;

/// How many builds are asked for at once.
const PAGE: u32 = 100;

/// Prints a document: as it is for programs, as text for people.
pub(super) fn document<T: Serialize>(
    output: &Output,
    document: &T,
    text: impl FnOnce() -> Vec<String>,
) {
    if output.is_json() {
        output.document(document);
        return;
    }
    for line in text() {
        output.result(&line);
    }
}

/// Returns how a command ends that waited for this build.
pub(super) fn exit_of(build: &BuildView) -> Exit {
    match build.state {
        StateName::Succeeded => Exit::Success,
        _ => Exit::BuildFailed,
    }
}

/// Runs `slipway list`.
pub(super) async fn list(
    client: &Client,
    args: &ListArgs,
    output: &Output,
) -> Result<Exit, ClientError> {
    let wanted = if args.all { usize::MAX } else { args.limit as usize };
    let mut found = BuildList { builds: Vec::new(), next_cursor: None };
    loop {
        let missing = wanted - found.builds.len();
        let query = ListQuery {
            states: args.states.clone(),
            image: args.image.clone(),
            limit: Some(u32::try_from(missing).map_or(PAGE, |missing| missing.min(PAGE))),
            cursor: found.next_cursor.take(),
        };
        let page = client.list(&query).await?;
        let empty = page.builds.is_empty();
        found.builds.extend(page.builds);
        found.next_cursor = page.next_cursor;
        if found.next_cursor.is_none() || empty || found.builds.len() >= wanted {
            break;
        }
    }
    document(output, &found, || render::build_list(&found.builds, Timestamp::now()));
    if found.next_cursor.is_some() && !output.is_json() {
        output.note("there are more: use --limit N or --all");
    }
    Ok(Exit::Success)
}
