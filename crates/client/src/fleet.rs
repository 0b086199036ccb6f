// SPDX-License-Identifier: Apache-2.0

//! What builds run on: the server, the queue, the workers and the environments.

use reqwest::Method;
use slipway_proto::WorkerId;
use slipway_proto::api::{CollectionView, EnvironmentView, QueueView, RepairsView, WorkerView};

use super::retry::Patience;
use super::{Client, ClientError, REQUEST_DEADLINE, SWEEP_DEADLINE};

impl Client {
    /// Returns whether the server is ready to serve.
    ///
    /// # Errors
    ///
    /// When it is not, with the reason.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut url = self.server.clone();
        url.path_segments_mut()
            .expect("the address was checked to be http or https")
            .pop_if_empty()
            .push("readyz");
        let request = self.request(Method::GET, url).timeout(REQUEST_DEADLINE);
        self.send(request).await.map(drop)
    }

    /// Returns the environments.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn environments(&self) -> Result<Vec<EnvironmentView>, ClientError> {
        self.get(self.url(&["environments"])).await
    }

    /// Returns the workers.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ClientError> {
        self.get(self.url(&["workers"])).await
    }

    /// Returns the depth of the queue.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn queue(&self) -> Result<QueueView, ClientError> {
        self.get(self.url(&["queue"])).await
    }

    /// Drains a worker: it finishes what it holds and takes no more. Returns the worker as it was
    /// when it answered.
    ///
    /// # Errors
    ///
    /// When there is no such worker, it does not answer, or the server cannot be asked.
    pub async fn drain(&self, worker: &WorkerId) -> Result<WorkerView, ClientError> {
        let request = self.request(Method::POST, self.url(&["workers", worker.as_str(), "drain"]));
        self.repeat(request, Patience::Busy).await
    }

    /// Makes the server remove what nobody needs any more, or only say what that is.
    ///
    /// # Errors
    ///
    /// When another dispatcher is doing it, or the server cannot be asked.
    pub async fn collect(&self, dry_run: bool) -> Result<CollectionView, ClientError> {
        let mut url = self.url(&["gc"]);
        if dry_run {
            url.query_pairs_mut().append_pair("dry_run", "true");
        }
        let request = self.request(Method::POST, url);
        self.repeat_within(SWEEP_DEADLINE, request, Patience::Busy).await
    }

    /// Makes the server look for builds that a crash left half accepted or half ended, and returns
    /// the repairs.
    ///
    /// # Errors
    ///
    /// When the server cannot be asked.
    pub async fn reconcile(&self) -> Result<RepairsView, ClientError> {
        let request = self.request(Method::POST, self.url(&["reconcile"]));
        self.repeat_within(SWEEP_DEADLINE, request, Patience::Busy).await
    }
}
