// SPDX-License-Identifier: Apache-2.0

//! Names as they are read back, the inverse of [`Subjects`](super::Subjects).
//!
//! A prefix is one token, so each part is found by its place and the prefix need not be known.

use std::fmt;

use crate::{BuildId, PoolName, Priority, ProjectName};

/// The subject of a build request, `<prefix>.build.<pool>.<priority>.<project>.<build>`.
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

/// The subject of a dead letter, `<prefix>.dead.<pool>.<project>.<build>`. Its tokens are texts, as
/// those of the [request](RequestSubject) were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadSubject<'a> {
    /// The pool.
    pub pool: &'a str,
    /// The project.
    pub project: &'a str,
    /// The build.
    pub build: &'a str,
}

impl<'a> DeadSubject<'a> {
    /// Reads a subject; returns `None` when it has fewer than five tokens.
    #[must_use]
    pub fn parse(subject: &'a str) -> Option<Self> {
        let mut tokens = subject.split('.').skip(2);
        Some(Self { pool: tokens.next()?, project: tokens.next()?, build: tokens.next()? })
    }
}

/// The subject of an event, `<prefix>.event.<project>.<shard>.<type>`, where a type has dots of its
/// own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSubject<'a> {
    /// The project.
    pub project: ProjectName,
    /// The short type of the event, as `build.finished`.
    pub short_type: &'a str,
}

impl<'a> EventSubject<'a> {
    /// Reads a subject; returns `None` when it names no project or no type.
    #[must_use]
    pub fn parse(subject: &'a str) -> Option<Self> {
        let mut tokens = subject.splitn(5, '.').skip(2);
        let project = tokens.next()?.parse().ok()?;
        let _shard = tokens.next()?;
        Some(Self { project, short_type: tokens.next()? })
    }
}

/// The key of a build's record in the state bucket, `<project>.<build>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// The project.
    pub project: ProjectName,
    /// The build.
    pub build: BuildId,
}

impl RecordKey {
    /// Makes the key of a build.
    #[must_use]
    pub fn new(project: &ProjectName, build: BuildId) -> Self {
        Self { project: project.clone(), build }
    }

    /// Reads the key from the end of a bucket's subject; returns `None` when it is no record's.
    #[must_use]
    pub fn of_subject(subject: &str) -> Option<Self> {
        let mut tokens = subject.rsplit('.');
        let build = tokens.next()?.parse().ok()?;
        Some(Self { project: tokens.next()?.parse().ok()?, build })
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.project, self.build)
    }
}

/// Returns whether a text can be one token of a subject: it has no dot, no wildcard and no space.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let may_stand = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>');
    !text.is_empty() && text.bytes().all(may_stand)
}

/// Returns the build that a message about a cancellation is about.
#[must_use]
pub fn cancelled_build(subject: &str) -> Option<BuildId> {
    subject.rsplit('.').next()?.parse().ok()
}

/// Returns the pool and the priority of a consumer of builds; `None` for the name of another one.
#[must_use]
pub fn class_of(consumer: &str) -> Option<(PoolName, Priority)> {
    let (pool, name) = consumer.rsplit_once('-')?;
    let (priority, ..) = Priority::ALL.into_iter().find(|(_, known, _)| *known == name)?;
    Some((pool.parse().ok()?, priority))
}
