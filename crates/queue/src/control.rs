// SPDX-License-Identifier: Apache-2.0

//! Messages to workers over core NATS: stop this build, drain.
//!
//! They are not stored. A worker that misses a cancellation sees it in the build's record when it
//! next extends its lease. A request to drain is answered, so that its sender knows that the worker
//! received it.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use futures::{Stream, StreamExt as _};
use slipway_proto::subject::cancelled_build;
use slipway_proto::{BuildId, WorkerId};

use crate::Queue;

/// How long a worker may take to answer a request to drain.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// Why a message did not reach a worker.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No worker of that name listens.
    #[error("no worker of that name is connected")]
    NoSuchWorker,
    /// The server did not answer.
    #[error("NATS does not answer")]
    Unavailable(#[source] async_nats::Error),
}

impl Queue {
    /// Notifies the worker that runs a build, if there is one, that its record changed.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn announce_cancel(&self, build: BuildId) -> Result<(), ControlError> {
        let client = self.jetstream.client();
        let unavailable = |error: async_nats::Error| ControlError::Unavailable(error);
        client
            .publish(self.subjects.cancel(build), bytes::Bytes::new())
            .await
            .map_err(|error| unavailable(error.into()))?;
        client.flush().await.map_err(|error| unavailable(error.into()))
    }

    /// Listens for cancellations of builds.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn cancellations(
        &self,
    ) -> Result<impl Stream<Item = BuildId> + Send + Unpin + use<>, ControlError> {
        let messages = self.subscribe(self.subjects.cancels()).await?;
        Ok(Box::pin(messages.filter_map(async |message| cancelled_build(&message.subject))))
    }

    /// Asks a worker to drain, and returns once it has received that.
    ///
    /// # Errors
    ///
    /// When there is no such worker, or it does not answer.
    pub async fn drain_worker(&self, worker: &WorkerId) -> Result<(), ControlError> {
        let request = async_nats::Request::new().timeout(Some(DRAIN_DEADLINE));
        let answer =
            self.jetstream.client().send_request(self.subjects.drain(worker), request).await;
        match answer {
            Ok(_received) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(ControlError::NoSuchWorker)
            }
            Err(error) => Err(ControlError::Unavailable(error.into())),
        }
    }

    /// Waits for a request to drain this worker, and answers it.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn drain_requested(&self, worker: &WorkerId) -> Result<(), ControlError> {
        let mut messages = self.subscribe(self.subjects.drain(worker)).await?;
        let Some(message) = messages.next().await else {
            return Err(ControlError::Unavailable("the subscription was closed".into()));
        };
        if let Some(reply) = message.reply {
            let client = self.jetstream.client();
            let answered = client.publish(reply, bytes::Bytes::from_static(b"draining")).await;
            if let Err(error) = answered {
                tracing::debug!(%error, "a request to drain was not answered");
            }
        }
        Ok(())
    }

    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, ControlError> {
        let client = self.jetstream.client();
        client.subscribe(subject).await.map_err(|error| ControlError::Unavailable(error.into()))
    }
}
