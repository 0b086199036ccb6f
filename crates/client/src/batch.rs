// SPDX-License-Identifier: Apache-2.0

//! Submitting many builds at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use slipway_proto::api::{BatchResult, BatchView, MAX_BATCH};

use super::retry::{self, Patience};
use super::{Client, ClientError, SWEEP_DEADLINE};

/// The largest number of bytes in one batch, less than a dispatcher accepts. More builds go in the
/// next batch.
const MAX_SENT_BYTES: usize = 4 << 20;

impl Client {
    /// Submits builds, each of which should have an `idempotency_key`, and returns one result for
    /// each. Sends as many batches as needed. A build that was refused because the server is busy
    /// is submitted again as often as a single build would be.
    ///
    /// # Errors
    ///
    /// When the server stays away or refuses a whole batch, with the results of the batches before
    /// it.
    pub async fn submit_batch(
        &self,
        builds: &[Value],
    ) -> Result<Vec<BatchResult>, (Vec<BatchResult>, ClientError)> {
        let mut results = Vec::with_capacity(builds.len());
        while results.len() < builds.len() {
            let rest = &builds[results.len()..];
            match self.submit_some(&rest[..fitting(rest)]).await {
                Ok(answered) => results.extend(answered),
                Err(error) => return Err((results, error)),
            }
        }
        Ok(results)
    }

    async fn submit_some(&self, builds: &[Value]) -> Result<Vec<BatchResult>, ClientError> {
        let mut results: Vec<Option<BatchResult>> = vec![None; builds.len()];
        let mut left: Vec<usize> = (0..builds.len()).collect();
        let mut failed = 0;
        while !left.is_empty() {
            let view = self.send_batch(builds, &left).await?;
            failed += 1;
            let mut pause = Duration::ZERO;
            let mut busy = Vec::new();
            for (place, result) in left.into_iter().zip(view.results) {
                if let Some(seconds) = result.retry_after_s {
                    pause = pause.max(Duration::from_secs(seconds.into()));
                    busy.push(place);
                }
                results[place] = Some(result);
            }
            left = if failed < retry::MAX_REQUEST_TRIES { busy } else { Vec::new() };
            if !left.is_empty() {
                tokio::time::sleep(pause.min(retry::LONGEST_PAUSE)).await;
            }
        }
        Ok(results.into_iter().map(|result| result.expect("each was sent")).collect())
    }

    async fn send_batch(&self, builds: &[Value], sent: &[usize]) -> Result<BatchView, ClientError> {
        let document: Vec<&Value> = sent.iter().map(|place| &builds[*place]).collect();
        let url = self.project_url(&["builds:batch"]);
        let request = self.request(Method::POST, url).json(&json!({"builds": document}));
        let view: BatchView = self.repeat_within(SWEEP_DEADLINE, request, Patience::Away).await?;
        if view.results.len() != sent.len() {
            return Err(ClientError::Unexpected {
                server: self.shown(),
                status: 200,
                source: None,
            });
        }
        Ok(view)
    }
}

/// Returns how many of these builds fit in one batch; at least one.
fn fitting(builds: &[Value]) -> usize {
    let mut bytes = 0;
    let fits = |build: &&Value| {
        bytes += build.to_string().len();
        bytes <= MAX_SENT_BYTES
    };
    builds.iter().take(MAX_BATCH).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_large_as_the_server_takes() {
        assert_eq!(fitting(&vec![json!({}); 1500]), MAX_BATCH);
        let large = json!({"env": {"A": "x".repeat(MAX_SENT_BYTES / 4)}});
        assert_eq!(fitting(&vec![large; 10]), 3);
        assert_eq!(fitting(&[json!("x".repeat(MAX_SENT_BYTES))]), 1);
    }
}
