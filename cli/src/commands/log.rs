// SPDX-License-Identifier: Apache-2.0

//! Logs as lines, and `slipway logs`.

use std::time::Duration;

use slipway_proto::BuildId;

use crate::output::Output;
use slipway_client::{Client, ClientError};
use slipway_service::Exit;

/// How long the server may be silent in the middle of a log that it has.
const LOG_SILENCE_DEADLINE: Duration = Duration::from_secs(30);

/// Runs `slipway logs ID`.
pub(super) async fn print(
    client: &Client,
    id: BuildId,
    output: &Output,
) -> Result<Exit, ClientError> {
    let mut response = client.log(id).await?;
    let mut lines = Lines::default();
    while let Some(bytes) = client.next_piece(&mut response, LOG_SILENCE_DEADLINE).await? {
        for line in lines.push(&bytes) {
            output.result(&line);
        }
        if output.is_closed() {
            break;
        }
    }
    if let Some(line) = lines.rest() {
        output.result(&line);
    }
    Ok(Exit::Ok)
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Returns the lines that are complete with these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.buffer.extend_from_slice(bytes);
        let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.buffer.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines().map(str::to_owned).collect()
    }

    /// Returns what is left at the end.
    pub(super) fn rest(self) -> Option<String> {
        (!self.buffer.is_empty()).then(|| String::from_utf8_lossy(&self.buffer).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_characters_survive_any_cut() {
        let text = "größe\n\nzwei\r\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found: Vec<String> =
                text.as_bytes().chunks(size).flat_map(|piece| lines.push(piece)).collect();
            found.extend(lines.rest());
            assert_eq!(found, ["größe", "", "zwei", "rest"], "cut into pieces of {size}");
        }
    }
}
