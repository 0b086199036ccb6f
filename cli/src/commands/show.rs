// SPDX-License-Identifier: Apache-2.0

//! Code shared by commands that only read, and `slipway list`.

use serde::Serialize;
use slipway_proto::Timestamp;
use slipway_proto::api::{BuildList, BuildView, StateName};

use crate::args::{ListArgs, PageArgs};
use crate::output::Output;
use crate::render;
use slipway_client::{Client, ClientError, ListQuery};
use slipway_service::Exit;

/// The size of a page.
const PAGE: u32 = 100;

/// Prints a document: as JSON for programs, as text for people.
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

/// Returns the exit of a command that waited for this build.
pub(super) fn exit_of(build: &BuildView) -> Exit {
    match build.state {
        StateName::Succeeded => Exit::Ok,
        _ => Exit::Failed,
    }
}

/// Prints a build that was accepted and is not waited for: only its id, for scripts.
pub(super) fn accepted(output: &Output, build: &BuildView) {
    document(output, build, || vec![build.id.to_string()]);
}

/// Runs `slipway list`.
pub(super) async fn list(
    client: &Client,
    args: &ListArgs,
    output: &Output,
) -> Result<Exit, ClientError> {
    let (builds, next_cursor) = pages(&args.page, async |limit, cursor| {
        let query = ListQuery {
            states: args.states.clone(),
            id: None,
            image: args.image.clone(),
            limit: Some(limit),
            cursor,
        };
        let page = client.list(&query).await?;
        Ok((page.builds, page.next_cursor))
    })
    .await?;
    let found = BuildList { builds, next_cursor };
    document(output, &found, || render::build_list(&found.builds, Timestamp::now()));
    tell_of_more(output, found.next_cursor.as_deref());
    Ok(Exit::Ok)
}

/// Reads a list page by page, up to the wanted number, and returns it with the cursor of the next
/// page.
pub(super) async fn pages<T>(
    wanted: &PageArgs,
    read: impl AsyncFn(u32, Option<String>) -> Result<(Vec<T>, Option<String>), ClientError>,
) -> Result<(Vec<T>, Option<String>), ClientError> {
    let wanted = if wanted.all { usize::MAX } else { wanted.limit as usize };
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let missing = wanted - found.len();
        let limit = u32::try_from(missing).map_or(PAGE, |missing| missing.min(PAGE));
        let (mut page, next) = read(limit, cursor.take()).await?;
        let empty = page.is_empty();
        found.append(&mut page);
        cursor = next;
        if cursor.is_none() || empty || found.len() >= wanted {
            return Ok((found, cursor));
        }
    }
}

/// Tells people that a list has more entries.
pub(super) fn tell_of_more(output: &Output, next_cursor: Option<&str>) {
    if next_cursor.is_some() && !output.is_json() {
        output.note("there are more: use --limit N or --all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(limit: u32, all: bool) -> (usize, Option<String>) {
        // Of 250 in all, the cursor being how many came before.
        let read = async |limit: u32, cursor: Option<String>| {
            let start: u32 = cursor.map_or(0, |cursor| cursor.parse().expect("a number"));
            let end = (start + limit).min(250);
            let next = (end < 250).then(|| end.to_string());
            Ok((vec![(); (end - start) as usize], next))
        };
        let (found, next) = pages(&PageArgs { limit, all }, read).await.expect("pages");
        (found.len(), next)
    }

    #[tokio::test]
    async fn as_many_pages_are_read_as_are_wanted() {
        assert_eq!(read(20, false).await, (20, Some("20".to_owned())));
        assert_eq!(read(150, false).await, (150, Some("150".to_owned())));
        assert_eq!(read(250, false).await, (250, None));
        assert_eq!(read(1000, false).await, (250, None));
        assert_eq!(read(20, true).await, (250, None));
    }
}
