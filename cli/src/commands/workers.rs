// SPDX-License-Identifier: Apache-2.0

//! `slipway workers` and the commands below it.

use slipway_proto::Timestamp;

use super::{several, show};
use crate::args::WorkersCommand;
use crate::output::Output;
use crate::render;
use slipway_client::{Client, ClientError};
use slipway_service::Exit;

/// Runs `slipway workers`.
pub(super) async fn run(
    client: &Client,
    command: Option<&WorkersCommand>,
    output: &Output,
) -> Result<Exit, ClientError> {
    match command {
        None => {
            let workers = client.workers().await?;
            show::document(output, &workers, || render::workers(&workers, Timestamp::now()));
            Ok(Exit::Ok)
        }
        Some(WorkersCommand::Drain { ids }) => {
            let ask = async |id: &_| client.drain(id).await;
            several::each(output, ids, ask, |_, worker| render::draining(worker)).await
        }
    }
}
