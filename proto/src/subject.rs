// SPDX-License-Identifier: Apache-2.0

//! The names of everything in NATS: subjects, streams, buckets, consumers.
//!
//! All filters of consumers come from here, because nats-server 2.9.10 accepts overlapping filters
//! on a work queue and would hand one build to two workers; these are disjoint by construction.
//!
//! `<prefix>.backlog.<pool>.<lane>.<priority>.<project>.<build>` and the stream `BACKLOG` are taken:
//! builds of a project above its share will wait there.

use crate::event::EventBody;
use crate::id::ParseNameError;
use crate::{BuildId, PoolName, Priority, ProjectName, WorkerId};

/// How many shards a project's events are spread over.
///
/// The build is not in the subject (each distinct subject costs the server some 230 bytes of
/// memory for as long as it holds a message), and a single subject could not be read in parallel.
pub const EVENT_SHARDS: u8 = 64;

/// Makes names from a configurable prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { prefix: "slipway".to_owned() }
    }
}

impl std::str::FromStr for Subjects {
    type Err = ParseNameError;

    fn from_str(prefix: &str) -> Result<Self, Self::Err> {
        // A prefix is a subject token and part of bucket names, so it obeys the same rule.
        prefix.parse::<ProjectName>().map(|name| Self { prefix: name.as_str().to_owned() })
    }
}

impl Subjects {
    /// Returns the prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
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

    /// Returns the name of the bucket that says whose each tag is.
    #[must_use]
    pub fn tags_bucket(&self) -> String {
        format!("{}-tags", self.prefix)
    }

    /// Returns the name of the bucket of leases between dispatchers.
    #[must_use]
    pub fn leases_bucket(&self) -> String {
        format!("{}-leases", self.prefix)
    }

    /// Returns the subject, of core NATS, on which the worker that runs a build is told to stop.
    #[must_use]
    pub fn cancel(&self, build: BuildId) -> String {
        format!("{}.control.cancel.{build}", self.prefix)
    }

    /// Returns the subject filter of all cancellations.
    #[must_use]
    pub fn cancels(&self) -> String {
        format!("{}.control.cancel.*", self.prefix)
    }

    /// Returns the subject, of core NATS, on which a worker is told to drain.
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

    /// Returns the key of a build in the state bucket.
    #[must_use]
    pub fn state_key(&self, project: &ProjectName, build: BuildId) -> String {
        format!("{project}.{build}")
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

/// The subject of a build request, `<prefix>.build.<pool>.<priority>.<project>.<build>`, as it was
/// read.
///
/// Its tokens are texts, because anybody may publish below the prefix: a message whose subject
/// names no project or no build must be moved out of the queue all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSubject<'a> {
    /// The pool.
    pub pool: &'a str,
    /// The priority.
    pub priority: &'a str,
    /// The project.
    pub project: &'a str,
    /// The build.
    pub build: &'a str,
}

impl<'a> RequestSubject<'a> {
    /// Reads a subject from its end; returns `None` when it has fewer than five tokens.
    #[must_use]
    pub fn parse(subject: &'a str) -> Option<Self> {
        let mut tokens = subject.rsplit('.');
        let (build, project) = (tokens.next()?, tokens.next()?);
        let (priority, pool) = (tokens.next()?, tokens.next()?);
        tokens.next()?;
        Some(Self { pool, priority, project, build })
    }

    /// Returns the project and the build, if the subject names one of each.
    #[must_use]
    pub fn ids(&self) -> Option<(ProjectName, BuildId)> {
        Some((self.project.parse().ok()?, self.build.parse().ok()?))
    }
}

fn shard(build: BuildId) -> u8 {
    // The last byte of a UUID of either version is random or a digest's.
    let digits = build.to_string();
    let last = &digits[digits.len() - 2..];
    u8::from_str_radix(last, 16).expect("a UUID ends in hexadecimal digits") % EVENT_SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_the_shape_of_the_contract() {
        let subjects = Subjects::default();
        let project = "team".parse().expect("a name");
        let build = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("an id");
        let pool = PoolName::default();
        assert_eq!(
            subjects.build(&pool, Priority::Normal, &project, build),
            "slipway.build.default.normal.team.01890a5d-ac96-774b-bcce-b302099a8057"
        );
        assert_eq!(subjects.builds_of(&pool, Priority::High), "slipway.build.default.high.>");
        assert_eq!(
            subjects.log(&project, build),
            "slipway.log.team.01890a5d-ac96-774b-bcce-b302099a8057"
        );
        assert_eq!(shard(build), 0x57 % 64);
    }

    #[test]
    fn another_prefix_is_another_world() {
        let subjects: Subjects = "staging".parse().expect("a prefix");
        assert_eq!(subjects.builds(), "staging.build.>");
        assert_eq!(subjects.builds_stream(), "STAGING_BUILDS");
        assert_eq!(subjects.state_bucket(), "staging-state");
        assert!("a.b".parse::<Subjects>().is_err());
    }
}
