// SPDX-License-Identifier: Apache-2.0

//! The project's dead letters: requests that used up their attempts or cannot be read.
//!
//! They are named by the build as text, because the message need not be a request of ours.

use reqwest::Method;
use slipway_proto::api::{BuildView, DeadLetterList, DeadLetterView};
use tokio::time::sleep;

use super::retry::{Patience, Retries};
use super::{Client, ClientError, REQUEST_DEADLINE};

/// The server's code for a letter that does not exist.
const NOT_FOUND: &str = "dead_letter_not_found";

impl Client {
    /// Returns a page of dead letters, oldest first.
    ///
    /// # Errors
    ///
    /// When the server refuses the query or cannot be asked.
    pub async fn dead_letters(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<DeadLetterList, ClientError> {
        let mut url = self.project_url(&["dead"]);
        if let Some(limit) = limit {
            url.query_pairs_mut().append_pair("limit", &limit.to_string());
        }
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        self.get(url).await
    }

    /// Returns the dead letter of a build.
    ///
    /// # Errors
    ///
    /// When there is none, or the server cannot be asked.
    pub async fn dead_letter(&self, build: &str) -> Result<DeadLetterView, ClientError> {
        self.get(self.project_url(&["dead", build])).await
    }

    /// Puts the request of a dead letter back into the queue and returns the build, the same one
    /// under its next epoch. Not repeated when the answer is lost: the letter may be gone by then,
    /// and a build that has failed again would be replayed twice.
    ///
    /// # Errors
    ///
    /// When there is no such letter, it cannot be read, or the server cannot be asked.
    pub async fn replay(&self, build: &str) -> Result<BuildView, ClientError> {
        let url = self.project_url(&["dead", build, "replay"]);
        self.repeat(self.request(Method::POST, url), Patience::Busy).await
    }

    /// Removes a dead letter. Its build remains failed.
    ///
    /// # Errors
    ///
    /// When there is no such letter, or the server refuses or stays away.
    pub async fn drop_dead_letter(&self, build: &str) -> Result<(), ClientError> {
        let url = self.project_url(&["dead", build]);
        let mut retries = Retries::default();
        let mut repeated = false;
        loop {
            let request = self.request(Method::DELETE, url.clone()).timeout(REQUEST_DEADLINE);
            match self.send(request).await {
                Ok(_) => return Ok(()),
                // The previous try removed it, and the answer was lost.
                Err(error) if repeated && error.code() == Some(NOT_FOUND) => return Ok(()),
                Err(error) => match retries.after(&error, Patience::Away) {
                    Some(pause) => sleep(pause).await,
                    None => return Err(error),
                },
            }
            repeated = true;
        }
    }
}
