// SPDX-License-Identifier: Apache-2.0

//! Words to workers over core NATS: stop this build, drain.
//!
//! Neither is stored. A worker that misses a cancellation sees it in the build's record when it
//! next extends its lease; whoever asks a worker to drain is told whether it heard.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use futures::{Stream, StreamExt as _};
use slipway_proto::subject::cancelled_build;
use slipway_proto::{BuildId, WorkerId};

use crate::Queue;

/// How long a worker may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// Why words did not reach a worker.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody of that name listens.
    #[error("no worker of that name is connected")]
    Nobody,
    /// The server did not answer.
    #[error("NATS does not answer")]
    Unavailable(#[source] async_nats::Error),
}

impl Queue {
    /// Tells the worker that runs a build, if one does, that its record changed.
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

    /// Tells a worker to drain, and returns once it has heard.
    ///
    /// # Errors
    ///
    /// When there is no such worker, or it does not answer.
    pub async fn drain_worker(&self, worker: &WorkerId) -> Result<(), ControlError> {
        let request = async_nats::Request::new().timeout(Some(ANSWER_DEADLINE));
        let answer =
            self.jetstream.client().send_request(self.subjects.drain(worker), request).await;
        match answer {
            Ok(_heard) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(ControlError::Nobody)
            }
            Err(error) => Err(ControlError::Unavailable(error.into())),
        }
    }

    /// Waits until somebody tells this worker to drain, and answers.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn told_to_drain(&self, worker: &WorkerId) -> Result<(), ControlError> {
        let mut messages = self.subscribe(self.subjects.drain(worker)).await?;
        let told = messages.next().await;
        let Some(message) = told else { return Err(ControlError::Unavailable("closed".into())) };
        if let Some(reply) = message.reply {
            let client = self.jetstream.client();
            let answered = client.publish(reply, bytes::Bytes::from_static(b"draining")).await;
            if let Err(error) = answered {
                tracing::debug!(%error, "whoever asked for the drain is not told");
            }
        }
        Ok(())
    }

    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, ControlError> {
        let client = self.jetstream.client();
        client.subscribe(subject).await.map_err(|error| ControlError::Unavailable(error.into()))
    }
}
