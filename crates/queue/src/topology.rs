// SPDX-License-Identifier: Apache-2.0

//! Makes the streams, buckets and consumers, and checks their settings.
//!
//! Every setting is read back after creation: nats-server 2.9.10 drops options it does not know
//! without an error, and a work queue without its per-subject limit would hand out builds twice.

mod streams;

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Config;
use slipway_proto::{PoolName, Priority};

use crate::Queue;
use crate::pull::consumer::BuildsConsumer;
use crate::query::QueryError;
pub use streams::{Limits, MIN_RECORD_AGE};

/// How long a worker holds a build without extending its lease before another worker gets it.
///
/// Lower, and a pause of the machine (a snapshot, a stalled disk) takes builds from living workers;
/// higher, and a build waits longer after its worker died. Workers extend it every 5 s and stop by
/// themselves after 11 s without confirmation, so two workers never publish one build.
pub const ACK_WAIT: Duration = Duration::from_secs(15);

/// How many builds of one pool and priority may be held at once. The default of 1,000 would
/// silently cap a fleet.
const MAX_ACK_PENDING: i64 = 100_000;

/// How many pull requests may wait on one consumer. The default of 512 would refuse the 513th idle
/// worker.
const MAX_PULLS_WAITING: i64 = 8192;

/// Why the streams cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The server refused to make or change something, or did not answer.
    #[error("failed to set up {what}")]
    Refused {
        /// The stream, bucket or consumer.
        what: String,
        /// The server's answer.
        #[source]
        source: async_nats::Error,
    },
    /// The existing streams could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The server made something other than what was requested.
    #[error(
        "{what} has other settings than Slipway needs ({setting}): the NATS server is too old, or \
        the setting was changed by hand"
    )]
    Differs {
        /// The stream, bucket or consumer.
        what: String,
        /// The setting.
        setting: &'static str,
    },
}

impl Queue {
    /// Makes the missing streams and buckets. Safe to run from many processes at once.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something other than what was requested.
    pub async fn ensure_topology(&self, limits: &Limits) -> Result<(), SetupError> {
        for config in streams::all(&self.subjects, self.replicas, limits) {
            self.ensure_stream(config).await?;
        }
        self.ensure_pool(&PoolName::default()).await
    }

    /// Makes the consumers of a pool, one for each priority, if they are missing.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something other than what was requested.
    pub async fn ensure_pool(&self, pool: &PoolName) -> Result<(), SetupError> {
        for (priority, ..) in Priority::ALL {
            self.builds_consumer(pool, priority).await?;
        }
        Ok(())
    }

    /// Returns the consumer of one pool and priority, making it if it is missing.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something other than what was requested.
    pub async fn builds_consumer(
        &self,
        pool: &PoolName,
        priority: Priority,
    ) -> Result<BuildsConsumer, SetupError> {
        let name = self.subjects.builds_consumer(pool, priority);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("{priority} builds of the pool {pool}")),
            filter_subject: self.subjects.builds_of(pool, priority),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: ACK_WAIT,
            // Attempts are counted in the build's record, where drains and restarts cost nothing.
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_PULLS_WAITING,
            ..Default::default()
        };
        let what = format!("consumer {name}");
        let filter = config.filter_subject.clone();
        let consumer = self
            .jetstream
            .create_consumer_on_stream(config, self.subjects.builds_stream())
            .await
            .map_err(|source| SetupError::Refused { what: what.clone(), source: source.into() })?;
        let actual = &consumer.cached_info().config;
        let differs = |setting| Err(SetupError::Differs { what: what.clone(), setting });
        if actual.filter_subject != filter {
            return differs("filter_subject");
        }
        if actual.ack_wait != ACK_WAIT {
            return differs("ack_wait");
        }
        if actual.max_ack_pending != MAX_ACK_PENDING {
            return differs("max_ack_pending");
        }
        Ok(BuildsConsumer::new(consumer))
    }

    async fn ensure_stream(&self, config: Config) -> Result<(), SetupError> {
        let what = format!("stream {}", config.name);
        let refused = |source: async_nats::Error| SetupError::Refused {
            what: format!("stream {}", config.name),
            source,
        };
        let stream = self
            .jetstream
            .get_or_create_stream(config.clone())
            .await
            .map_err(|error| refused(error.into()))?;
        let mut actual = stream.cached_info().config.clone();
        // Only limits that can be set in the configuration are updated. An operator may change the
        // others.
        if (actual.max_messages, actual.max_bytes, actual.max_age, actual.num_replicas)
            != (config.max_messages, config.max_bytes, config.max_age, config.num_replicas)
        {
            let updated = self.jetstream.update_stream(config.clone()).await;
            actual = updated.map_err(|error| refused(error.into()))?.config;
        }
        let differs = |setting| Err(SetupError::Differs { what: what.clone(), setting });
        if actual.retention != config.retention {
            return differs("retention");
        }
        if actual.max_messages_per_subject != config.max_messages_per_subject
            || actual.discard_new_per_subject != config.discard_new_per_subject
        {
            return differs("one message per subject");
        }
        if actual.discard != config.discard {
            return differs("discard");
        }
        if actual.subjects != config.subjects {
            return differs("subjects");
        }
        Ok(())
    }
}
