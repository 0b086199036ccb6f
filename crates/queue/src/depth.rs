// SPDX-License-Identifier: Apache-2.0

//! The depth and the replicas of the queue: requests that change nothing.

use std::collections::BTreeMap;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use futures::TryStreamExt as _;
use slipway_proto::api::{QueueClass, QueueView};
use slipway_proto::subject::class_of;

use crate::Queue;
use crate::query::QueryError;

impl Queue {
    /// Returns whether the streams exist.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn has_topology(&self) -> Result<bool, QueryError> {
        use GetStreamErrorKind::JetStream;
        let name = self.subjects.builds_stream();
        match self.jetstream.get_stream(&name).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(false)
                }
                _ => Err(QueryError::of_stream(&name, error)),
            },
        }
    }

    /// Reads the number of replicas of the queue.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn queue_replicas(&self) -> Result<usize, QueryError> {
        let stream = self.stream(self.subjects.builds_stream()).await?;
        Ok(stream.cached_info().config.num_replicas)
    }

    /// Reads the depth of the queue.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn depth(&self) -> Result<QueueView, QueryError> {
        let name = self.subjects.builds_stream();
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| QueryError::of_stream(&name, error))?;
        let consumers: Vec<_> = stream
            .consumers()
            .try_collect()
            .await
            .map_err(|error| QueryError::new(format!("the consumers of {name}"), error))?;
        let mut classes = BTreeMap::new();
        for consumer in &consumers {
            let Some((pool, priority)) = class_of(&consumer.name) else { continue };
            let class = QueueClass {
                pool: pool.clone(),
                priority,
                queued: consumer.num_pending,
                running: u64::try_from(consumer.num_ack_pending).unwrap_or(u64::MAX),
            };
            classes.insert((pool, priority), class);
        }
        let classes: Vec<QueueClass> = classes.into_values().collect();
        let dead = self.stream(self.subjects.dead_stream()).await?;
        Ok(QueueView {
            queued: classes.iter().map(|class| class.queued).sum(),
            running: classes.iter().map(|class| class.running).sum(),
            classes,
            dead: dead.cached_info().state.messages,
        })
    }

    /// Reads the server's description of a stream.
    pub(crate) async fn stream(&self, name: String) -> Result<Stream, QueryError> {
        let stream = self.jetstream.get_stream(&name).await;
        stream.map_err(|error| QueryError::of_stream(&name, error))
    }
}
