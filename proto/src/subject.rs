// SPDX-License-Identifier: Apache-2.0

//! The names of everything in NATS: subjects, streams, buckets, keys, consumers.
//!
//! They are made and read here alone, so that the form of a name is known in one place. All filters
//! of consumers come from here too, because nats-server 2.9.10 accepts overlapping filters on a work
//! queue and would hand one build to two workers; these are disjoint by construction.
//!
//! `<prefix>.backlog.<pool>.<lane>.<priority>.<project>.<build>` and the stream `BACKLOG` are
//! reserved: builds of a project above its share will wait there.

mod parsed;

use crate::event::EventBody;
use crate::id::{ParseNameError, Prefix};
use crate::{BuildId, PoolName, Priority, ProjectName, WorkerId};

pub use parsed::{
    DeadSubject, EventSubject, RecordKey, RequestSubject, cancelled_build, class_of, is_token,
};

/// How many shards a project's events are spread over.
///
/// The build is not in the subject (each distinct subject costs the server some 230 bytes of
/// memory for as long as it holds a message), and a single subject could not be read in parallel.
pub const EVENT_SHARDS: u8 = 64;

/// Makes names from a configurable prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    prefix: Prefix,
}

impl From<Prefix> for Subjects {
    fn from(prefix: Prefix) -> Self {
        Self { prefix }
    }
}

impl std::str::FromStr for Subjects {
    type Err = ParseNameError;

    fn from_str(prefix: &str) -> Result<Self, Self::Err> {
        prefix.parse::<Prefix>().map(Self::from)
    }
}

/// Returns the name of the stream behind a key-value bucket.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Returns the subject of a key of a bucket.
#[must_use]
pub fn bucket_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Returns the subject filter of all keys of a bucket.
#[must_use]
pub fn bucket_subjects(bucket: &str) -> String {
    format!("$KV.{bucket}.>")
}

impl Subjects {
    /// Returns the prefix.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    fn stream(&self, name: &str) -> String {
        match self.prefix.as_str() {
            "slipway" => name.to_owned(),
            prefix => format!("{}_{name}", prefix.to_uppercase()),
        }
    }

    /// Returns the name of the work queue.
    #[must_use]
    pub fn builds_stream(&self) -> String {
        self.stream("BUILDS")
    }

    /// Returns the name of the event stream.
    #[must_use]
    pub fn events_stream(&self) -> String {
        self.stream("EVENTS")
    }

    /// Returns the name of the log stream.
    #[must_use]
    pub fn logs_stream(&self) -> String {
        self.stream("LOGS")
    }

    /// Returns the name of the dead-letter stream.
    #[must_use]
    pub fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    /// Returns the name of the stream that keeps the server's advisories about the work queue.
    #[must_use]
    pub fn advisories_stream(&self) -> String {
        self.stream("ADVISORIES")
    }

    /// Returns the subjects of those advisories.
    #[must_use]
    pub fn advisories(&self) -> Vec<String> {
        let builds = self.builds_stream();
        ["MAX_DELIVERIES", "MSG_TERMINATED"]
            .map(|kind| format!("$JS.EVENT.ADVISORY.CONSUMER.{kind}.{builds}.>"))
            .to_vec()
    }

    /// Returns the name of the bucket of tag owners.
    #[must_use]
    pub fn tags_bucket(&self) -> String {
        format!("{}-tags", self.prefix)
    }

    /// Returns the name of the bucket in which dispatchers elect a leader.
    #[must_use]
    pub fn leases_bucket(&self) -> String {
        format!("{}-leases", self.prefix)
    }

    /// Returns the subject, in core NATS, of the message that stops a cancelled build at its
    /// worker.
    #[must_use]
    pub fn cancel(&self, build: BuildId) -> String {
        format!("{}.control.cancel.{build}", self.prefix)
    }

    /// Returns the subject filter of all cancellations.
    #[must_use]
    pub fn cancels(&self) -> String {
        format!("{}.control.cancel.*", self.prefix)
    }

    /// Returns the subject, in core NATS, of the request that drains a worker.
    #[must_use]
    pub fn drain(&self, worker: &WorkerId) -> String {
        format!("{}.control.drain.{worker}", self.prefix)
    }

    /// Returns the name of the bucket of live build records.
    #[must_use]
    pub fn state_bucket(&self) -> String {
        format!("{}-state", self.prefix)
    }

    /// Returns the name of the bucket of worker presence.
    #[must_use]
    pub fn workers_bucket(&self) -> String {
        format!("{}-workers", self.prefix)
    }

    /// Returns the subject a build request is published on. One message at most can stand on it.
    #[must_use]
    pub fn build(
        &self,
        pool: &PoolName,
        priority: Priority,
        project: &ProjectName,
        build: BuildId,
    ) -> String {
        format!("{}.build.{pool}.{priority}.{project}.{build}", self.prefix)
    }

    /// Returns the subject filter of all build requests.
    #[must_use]
    pub fn builds(&self) -> String {
        format!("{}.build.>", self.prefix)
    }

    /// Returns the subject filter of the consumer of one pool and priority.
    #[must_use]
    pub fn builds_of(&self, pool: &PoolName, priority: Priority) -> String {
        format!("{}.build.{pool}.{priority}.>", self.prefix)
    }

    /// Returns the subject filter of one project's build requests.
    #[must_use]
    pub fn builds_of_project(&self, project: &ProjectName) -> String {
        format!("{}.build.*.*.{project}.>", self.prefix)
    }

    /// Returns the name of the consumer of one pool and priority.
    #[must_use]
    pub fn builds_consumer(&self, pool: &PoolName, priority: Priority) -> String {
        format!("{pool}-{priority}")
    }

    /// Returns the subject an event is published on.
    #[must_use]
    pub fn event(&self, project: &ProjectName, build: BuildId, body: &EventBody) -> String {
        let shard = shard(build);
        format!("{}.event.{project}.{shard}.{}", self.prefix, body.short_type())
    }

    /// Returns the subject filter of all events.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.event.>", self.prefix)
    }

    /// Returns the subject filter of one project's events.
    #[must_use]
    pub fn events_of(&self, project: &ProjectName) -> String {
        format!("{}.event.{project}.>", self.prefix)
    }

    /// Returns the subject filter of all builds' outcomes.
    #[must_use]
    pub fn outcomes(&self) -> String {
        format!("{}.event.*.*.build.finished", self.prefix)
    }

    /// Returns the subject of a build's log.
    #[must_use]
    pub fn log(&self, project: &ProjectName, build: BuildId) -> String {
        format!("{}.log.{project}.{build}", self.prefix)
    }

    /// Returns the subject filter of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        format!("{}.log.>", self.prefix)
    }

    /// Returns the subject that a request is moved to when it can never be built.
    #[must_use]
    pub fn dead(&self, pool: &PoolName, project: &str, build: &str) -> String {
        format!("{}.dead.{pool}.{project}.{build}", self.prefix)
    }

    /// Returns the subject filter of a build's dead request, whatever its pool; at most one message
    /// matches.
    #[must_use]
    pub fn dead_in_any_pool(&self, project: &ProjectName, build: &str) -> String {
        format!("{}.dead.*.{project}.{build}", self.prefix)
    }

    /// Returns the subject filter of one project's dead requests.
    #[must_use]
    pub fn deads_of(&self, project: &ProjectName) -> String {
        format!("{}.dead.*.{project}.>", self.prefix)
    }

    /// Returns the subject filter of all dead requests.
    #[must_use]
    pub fn deads(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }
}

fn shard(build: BuildId) -> u8 {
    // The last byte of a UUID of either version is random or a digest's.
    let digits = build.to_string();
    let last = &digits[digits.len() - 2..];
    u8::from_str_radix(last, 16).expect("a UUID ends in hexadecimal digits") % EVENT_SHARDS
}

#[cfg(test)]
mod tests;
