// SPDX-License-Identifier: Apache-2.0

//! `slipway dead` and the commands below it.

use slipway_proto::Timestamp;
use slipway_proto::api::DeadLetterList;

use super::{several, show};
use crate::args::{DeadCommand, PageArgs};
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
            let letter = client.dead_letter(build).await?;
            let text = || render::dead_letter_details(&letter, Timestamp::now());
            show::document(output, &letter, text);
            Ok(Exit::Ok)
        }
        DeadCommand::Replay { builds } => {
            let ask = async |build: &String| client.replay(build).await;
            several::each(output, builds, ask, |_, build| render::build_line(build)).await
        }
        DeadCommand::Drop { builds } => {
            let ask = async |build: &String| client.drop_dead_letter(build).await;
            let done = |build: &String, (): &()| format!("dead letter of build {build} dropped");
            several::each(output, builds, ask, done).await
        }
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
