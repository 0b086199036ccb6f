// SPDX-License-Identifier: Apache-2.0

//! The streams, buckets and consumers, and that they are what we asked for.
//!
//! Every setting is read back after creation: nats-server 2.9.10 drops options it does not know
//! without an error, and a work queue without its per-subject limit would hand out builds twice.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use futures::TryStreamExt as _;
use slipway_proto::api::{QueueClass, QueueView};
use slipway_proto::subject::{bucket_stream, bucket_subjects, class_of};
use slipway_proto::{PoolName, Priority};

use crate::Queue;
use crate::pull::BuildsConsumer;

/// How long a worker holds a build without a word before another gets it.
///
/// Lower, and a pause of the machine (a snapshot, a stalled disk) takes builds from living workers;
/// higher, and a build waits longer after its worker died. Workers extend it every 5 s and stop by
/// themselves after 11 s without confirmation, so two never publish one build.
pub const ACK_WAIT: Duration = Duration::from_secs(15);

/// The window in which the server drops a second message of the same id. Long enough for every
/// retry of a publish, short enough not to cost memory (some 210 bytes an id).
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// How many builds of one pool and priority may be held at once. The default of 1,000 would
/// silently cap a fleet.
const MAX_ACK_PENDING: i64 = 100_000;

/// How many pull requests may wait on one consumer. The default of 512 would refuse the 513th idle
/// worker.
const MAX_WAITING: i64 = 8192;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the live record of a build is kept after its last change.
pub const RECORD_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Bounds of the streams. Defaults suit one machine; an operator raises them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many builds may wait or run.
    pub queue_messages: i64,
    /// How many bytes they may take.
    pub queue_bytes: i64,
    /// How long events are kept.
    pub events_age: Duration,
    /// How long logs are kept in the stream.
    pub logs_age: Duration,
    /// How many bytes of logs are kept in the stream.
    pub logs_bytes: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_messages: 1_000_000,
            queue_bytes: 1 << 30,
            events_age: 90 * DAY,
            logs_age: 3 * DAY,
            logs_bytes: 2 << 30,
        }
    }
}

/// Why the streams are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server refused.
    #[error("failed to set up {what}")]
    Refused {
        /// The stream, bucket or consumer.
        what: String,
        /// The server's answer.
        #[source]
        source: async_nats::Error,
    },
    /// The server made something else than was asked.
    #[error(
        "{what} has other settings than Slipway needs ({setting}): the NATS server is too old, or somebody changed it"
    )]
    Differs {
        /// The stream, bucket or consumer.
        what: String,
        /// The setting.
        setting: &'static str,
    },
}

impl Queue {
    /// Makes whatever is missing of streams and buckets. Safe to run from many processes at once.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something else than was asked for.
    pub async fn ensure_topology(&self, limits: &Limits) -> Result<(), TopologyError> {
        for config in self.streams(limits) {
            self.ensure_stream(config).await?;
        }
        self.ensure_pool(&PoolName::default()).await
    }

    /// Returns whether the streams are there.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn has_topology(&self) -> Result<bool, TopologyError> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::context::GetStreamErrorKind as Kind;
        let name = self.subjects.builds_stream();
        match self.jetstream.get_stream(&name).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                Kind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(false)
                }
                _ => Err(TopologyError::Refused {
                    what: format!("stream {name}"),
                    source: error.into(),
                }),
            },
        }
    }

    /// Makes the three consumers of a pool, if they are missing.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something else than was asked for.
    pub async fn ensure_pool(&self, pool: &PoolName) -> Result<(), TopologyError> {
        for (priority, ..) in Priority::ALL {
            self.builds_consumer(pool, priority).await?;
        }
        Ok(())
    }

    /// Returns the consumer of one pool and priority, making it if it is missing.
    ///
    /// # Errors
    ///
    /// When the server refuses, or makes something else than was asked for.
    pub async fn builds_consumer(
        &self,
        pool: &PoolName,
        priority: Priority,
    ) -> Result<BuildsConsumer, TopologyError> {
        let name = self.subjects.builds_consumer(pool, priority);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("{priority} builds of the pool {pool}")),
            filter_subject: self.subjects.builds_of(pool, priority),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: ACK_WAIT,
            // Attempts are counted in the build's record, where drains and restarts are free.
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            ..Default::default()
        };
        let what = format!("consumer {name}");
        let filter = config.filter_subject.clone();
        let consumer = self
            .jetstream
            .create_consumer_on_stream(config, self.subjects.builds_stream())
            .await
            .map_err(|source| TopologyError::Refused {
                what: what.clone(),
                source: source.into(),
            })?;
        let actual = &consumer.cached_info().config;
        let differs = |setting| Err(TopologyError::Differs { what: what.clone(), setting });
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

    fn streams(&self, limits: &Limits) -> Vec<Config> {
        let subjects = &self.subjects;
        let stream = |name: String, subject: String, description: &str| Config {
            name,
            subjects: vec![subject],
            description: Some(description.to_owned()),
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: DUPLICATE_WINDOW,
            allow_direct: true,
            // Without bounds, in the server's own writing; it would be read back otherwise.
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: -1,
            ..Default::default()
        };
        let bucket = |bucket: String, max_age: Duration, description: &str| Config {
            // The stream that `create_key_value` of async-nats would make; it cannot itself, since
            // it first asks nats-server 2.9 something that it answers in a form the client refuses.
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            max_age,
            // The server refuses a longer one.
            duplicate_window: if max_age.is_zero() {
                DUPLICATE_WINDOW
            } else {
                DUPLICATE_WINDOW.min(max_age)
            },
            ..stream(bucket_stream(&bucket), bucket_subjects(&bucket), description)
        };
        vec![
            Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                discard_new_per_subject: true,
                max_messages_per_subject: 1,
                max_messages: limits.queue_messages,
                max_bytes: limits.queue_bytes,
                // A work queue does not serve direct gets to anyone but its consumers.
                allow_direct: false,
                ..stream(subjects.builds_stream(), subjects.builds(), "builds that wait or run")
            },
            Config {
                max_age: limits.events_age,
                ..stream(subjects.events_stream(), subjects.events(), "what happened to builds")
            },
            Config {
                max_age: limits.logs_age,
                max_bytes: limits.logs_bytes,
                ..stream(subjects.logs_stream(), subjects.logs(), "logs of unfinished builds")
            },
            Config {
                max_age: 30 * DAY,
                ..stream(subjects.dead_stream(), subjects.deads(), "requests that cannot be built")
            },
            Config {
                max_age: 7 * DAY,
                max_bytes: 64 << 20,
                subjects: subjects.advisories(),
                ..stream(subjects.advisories_stream(), String::new(), "advisories about the queue")
            },
            bucket(subjects.state_bucket(), RECORD_AGE, "live records of builds"),
            bucket(subjects.tags_bucket(), Duration::ZERO, "which build each tag belongs to"),
            bucket(subjects.leases_bucket(), crate::lease::LEASE_AGE, "leases of dispatchers"),
            bucket(subjects.workers_bucket(), Duration::from_secs(15), "presence of workers"),
        ]
    }

    async fn ensure_stream(&self, config: Config) -> Result<(), TopologyError> {
        let what = format!("stream {}", config.name);
        let refused = |source: async_nats::Error| TopologyError::Refused {
            what: format!("stream {}", config.name),
            source,
        };
        let stream = self
            .jetstream
            .get_or_create_stream(config.clone())
            .await
            .map_err(|error| refused(error.into()))?;
        let mut actual = stream.cached_info().config.clone();
        // Bounds are an operator's to change; only those that a restart with other settings
        // brings are carried over.
        if (actual.max_messages, actual.max_bytes, actual.max_age, actual.num_replicas)
            != (config.max_messages, config.max_bytes, config.max_age, config.num_replicas)
        {
            let updated = self.jetstream.update_stream(config.clone()).await;
            actual = updated.map_err(|error| refused(error.into()))?.config;
        }
        let differs = |setting| Err(TopologyError::Differs { what: what.clone(), setting });
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

    /// Reads how many copies of the queue the cluster keeps.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn queue_replicas(&self) -> Result<usize, TopologyError> {
        let name = self.subjects.builds_stream();
        let stream = self.jetstream.get_stream(&name).await.map_err(|error| {
            TopologyError::Refused { what: format!("stream {name}"), source: error.into() }
        })?;
        Ok(stream.cached_info().config.num_replicas)
    }

    /// Reads how much waits in the queue.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn depth(&self) -> Result<QueueView, TopologyError> {
        let stream_name = self.subjects.builds_stream();
        let refused =
            |what: String, source: async_nats::Error| TopologyError::Refused { what, source };
        let stream = self
            .jetstream
            .get_stream_no_info(&stream_name)
            .await
            .map_err(|error| refused(format!("stream {stream_name}"), error.into()))?;
        let consumers: Vec<_> = stream
            .consumers()
            .try_collect()
            .await
            .map_err(|error| refused(format!("consumers of {stream_name}"), error.into()))?;
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
        let dead_name = self.subjects.dead_stream();
        let dead = self
            .jetstream
            .get_stream(&dead_name)
            .await
            .map_err(|error| refused(format!("stream {dead_name}"), error.into()))?
            .cached_info()
            .state
            .messages;
        Ok(QueueView {
            queued: classes.iter().map(|class| class.queued).sum(),
            running: classes.iter().map(|class| class.running).sum(),
            classes,
            dead,
        })
    }
}
