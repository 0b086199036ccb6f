// SPDX-License-Identifier: Apache-2.0

//! `slipway cancel`.

use super::{id_of, several, show};
use crate::args::CancelArgs;
use crate::output::Output;
use crate::render;
use slipway_client::{Client, ClientError};
use slipway_service::Exit;

/// Runs `slipway cancel`.
pub(super) async fn run(
    client: &Client,
    args: &CancelArgs,
    output: &Output,
) -> Result<Exit, ClientError> {
    if args.all_queued {
        let view = client.cancel_queued().await?;
        show::document(output, &view, || render::cancelled(&view));
        return Ok(Exit::Ok);
    }
    let ask = async |name: &_| client.cancel(id_of(client, name).await?).await;
    several::each(output, &args.ids, ask, |_, build| render::build_line(build)).await
}
