// SPDX-License-Identifier: Apache-2.0

//! `slipway events`.

use serde_json::Value;

use super::id_of;
use crate::args::EventsArgs;
use crate::output::Output;
use crate::render;
use slipway_client::{Client, ClientError, Events, Followed};
use slipway_fault::chain;
use slipway_service::Exit;

/// Runs `slipway events`.
pub(super) async fn print(
    client: &Client,
    args: &EventsArgs,
    output: &Output,
) -> Result<Exit, ClientError> {
    let which = match (args.follow, &args.build) {
        (false, _) => Events::Past,
        (true, None) => Events::Coming,
        (true, Some(_)) => Events::All,
    };
    let build = match &args.build {
        Some(name) => Some(id_of(client, name).await?),
        None => None,
    };
    let mut events = client.events(which, build);
    let mut lost = false;
    loop {
        match events.next().await? {
            Followed::Opened if lost => {
                lost = false;
                output.note("connected again");
            }
            Followed::Lost(error) if !lost => {
                lost = true;
                output.note(&format!("{}; trying again", chain(&error)));
            }
            Followed::Opened | Followed::Lost(_) => {}
            Followed::Ended if args.follow => {}
            Followed::Ended => return Ok(Exit::Ok),
            Followed::Event(event) => {
                let Ok(document) = serde_json::from_str::<Value>(&event.data) else { continue };
                if output.is_json() {
                    output.json_line(&document);
                } else {
                    output.result(&render::event_line(&document));
                }
                if output.is_closed() {
                    return Ok(Exit::Ok);
                }
            }
        }
    }
}
