// SPDX-License-Identifier: Apache-2.0

//! `slipway dead` and the commands below it.

use slipway_proto::Timestamp;
use slipway_proto::api::DeadLetterList;

use super::{id_of, several, show};
use crate::args::{BuildName, DeadCommand, PageArgs};
use crate::output::Output;
use crate::render;
use slipway_client::{Client, ClientError};
use slipway_service::Exit;

/// Runs `slipway dead`.
pub(super) async fn run(
    client: &Client,
    command: &DeadCommand,
    output: &Output,
) -> Result<Exit, ClientError> {
    match command {
        DeadCommand::List(page) => list(client, page, output).await,
        DeadCommand::Show { build } => {
            let letter = client.dead_letter(&named(client, build).await?).await?;
            let text = || render::dead_letter_details(&letter, Timestamp::now());
            show::document(output, &letter, text);
            Ok(Exit::Ok)
        }
        DeadCommand::Replay { builds } => {
            let ask = async |build: &String| client.replay(&named(client, build).await?).await;
            several::each(output, builds, ask, |_, build| render::build_line(build)).await
        }
        DeadCommand::Drop { builds } => {
            let ask =
                async |build: &String| client.drop_dead_letter(&named(client, build).await?).await;
            let done = |build: &String, (): &()| format!("dead letter of build {build} dropped");
            several::each(output, builds, ask, done).await
        }
    }
}

/// Returns the build of a letter that somebody named, perhaps by the first characters of its id. A
/// letter need not be of a build of ours, so a text that names no build is taken as it is.
async fn named(client: &Client, text: &str) -> Result<String, ClientError> {
    let Ok(name) = text.parse::<BuildName>() else { return Ok(text.to_owned()) };
    match id_of(client, &name).await {
        Ok(id) => Ok(id.to_string()),
        Err(error) if error.code() == Some("build_not_found") => Ok(text.to_owned()),
        Err(error) => Err(error),
    }
}

async fn list(client: &Client, page: &PageArgs, output: &Output) -> Result<Exit, ClientError> {
    let (letters, next_cursor) = show::pages(page, async |limit, cursor| {
        let page = client.dead_letters(Some(limit), cursor.as_deref()).await?;
        Ok((page.letters, page.next_cursor))
    })
    .await?;
    let found = DeadLetterList { letters, next_cursor };
    let text = || render::dead_letters(&found.letters, Timestamp::now());
    show::document(output, &found, text);
    show::tell_of_more(output, found.next_cursor.as_deref());
    Ok(Exit::Ok)
}
