// SPDX-License-Identifier: Apache-2.0

//! Bounds on what grows in NATS: live records, owners of tags, and dead letters.
//!
//! The server itself forgets records and letters by age. By size it could only refuse new ones, so
//! what is finished is removed here, oldest first. An entry is removed only if it is still the one
//! that was read: a purge names the sequence behind it.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures::StreamExt as _;
use serde::Deserialize;
use slipway_proto::api::StateName;
use slipway_proto::subject::{bucket_stream, bucket_subjects};
use slipway_proto::{ProjectName, Timestamp};

use crate::Queue;
use crate::dead::{DeadLetter, letter};
use crate::failpoint::is_off;
use crate::query::QueryError;
use crate::read::{Message, ReadError, Reader};
use crate::references::References;
use crate::tag::TagOwner;
use crate::topology::MIN_RECORD_AGE;

/// How long the owner of a tag is kept whatever the bounds say. A worker that is frozen while it
/// writes a tag, and wakes later than this, can no longer repair it.
pub const MIN_TAG_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of something may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For how long.
    pub age: Duration,
    /// How many bytes.
    pub bytes: u64,
}

/// What a stream or bucket holds, and what was removed from it, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// How many entries it holds.
    pub found: u64,
    /// How many bytes they take on the server's disk.
    pub bytes: u64,
    /// How many of them were removed.
    pub removed: u64,
    /// The bytes of those, about.
    pub removed_bytes: u64,
}

/// Why something could not be trimmed.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The server does not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// A stream that is trimmed.
struct Trimming<'a> {
    queue: &'a Queue,
    stream: String,
    filter: String,
    bounds: Bounds,
    now: Timestamp,
    trimmed: Trimmed,
    /// When its oldest message was stored.
    oldest: Timestamp,
}

impl<'a> Trimming<'a> {
    async fn of(
        queue: &'a Queue,
        stream: String,
        filter: String,
        bounds: Bounds,
    ) -> Result<Self, QueryError> {
        let found = queue.jetstream.get_stream(&stream).await;
        let found = found.map_err(|error| QueryError::of_stream(&stream, error))?;
        let state = &found.cached_info().state;
        let trimmed = Trimmed { found: state.messages, bytes: state.bytes, ..Trimmed::default() };
        let oldest = Timestamp::from_nanosecond(state.first_timestamp.unix_timestamp_nanos());
        let oldest = oldest.unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Self { queue, stream, filter, bounds, now: Timestamp::now(), trimmed, oldest })
    }

    fn is_older(&self, time: Timestamp, age: Duration) -> bool {
        Duration::try_from(self.now.duration_since(time)).is_ok_and(|is| is > age)
    }

    fn is_over(&self) -> bool {
        self.trimmed.bytes - self.trimmed.removed_bytes.min(self.trimmed.bytes) > self.bounds.bytes
    }

    /// Returns whether something may have to be removed. By size or, unless the server does that,
    /// by age.
    fn is_needed(&self, by_age: bool) -> bool {
        let is_aged = by_age && self.is_older(self.oldest, self.bounds.age);
        self.trimmed.found > 0 && (self.is_over() || is_aged)
    }

    async fn reader(&self) -> Result<Reader, ReadError> {
        Reader::open(self.queue, &self.stream, &self.filter, DeliverPolicy::All).await
    }

    fn count(&mut self, message: &Message) {
        self.trimmed.removed += 1;
        // The server's header of a message has 22 bytes.
        self.trimmed.removed_bytes += (message.payload.len() + message.subject.len() + 22) as u64;
    }

    /// Removes an entry unless it has changed since it was read.
    async fn purge(&self, message: &Message) -> Result<(), QueryError> {
        let refused = |error: async_nats::Error| QueryError::of_stream(&self.stream, error);
        let stream = self.queue.jetstream.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| refused(error.into()))?;
        let purge = stream.purge().sequence(message.sequence + 1).filter(&message.subject);
        purge.await.map(drop).map_err(|error| refused(error.into()))
    }
}

/// Returns how long something is kept whatever the bounds say.
fn floor(age: Duration) -> Duration {
    if is_off("retention-floor") { Duration::ZERO } else { age }
}

/// Where a record is, as far as it matters here.
#[derive(Deserialize)]
struct Outline {
    state: StateOutline,
}

#[derive(Deserialize)]
struct StateOutline {
    phase: PhaseOutline,
}

#[derive(Deserialize)]
struct PhaseOutline {
    phase: StateName,
    #[serde(default)]
    dead: bool,
}

impl Outline {
    fn is_done(message: &Message) -> bool {
        serde_json::from_slice::<Self>(&message.payload)
            .is_ok_and(|Self { state }| state.phase.phase.is_finished() && !state.phase.dead)
    }
}

impl Queue {
    /// Removes records of finished builds, oldest first, while the bucket is over its bound of
    /// bytes. Those that changed within [`MIN_RECORD_AGE`] stay. `may_act` is asked before each;
    /// with `dry_run` nothing is removed.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn trim_records(
        &self,
        bounds: Bounds,
        dry_run: bool,
        may_act: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Trimmed, TrimError> {
        let bucket = self.subjects.state_bucket();
        let (stream, filter) = (bucket_stream(&bucket), bucket_subjects(&bucket));
        let mut trimming = Trimming::of(self, stream, filter, bounds).await?;
        if !trimming.is_needed(false) {
            return Ok(trimming.trimmed);
        }
        let mut records = trimming.reader().await?.until_caught_up();
        while trimming.is_over() && may_act() {
            let Some(message) = records.next().await.transpose()? else { break };
            if !trimming.is_older(message.time, floor(MIN_RECORD_AGE)) {
                break;
            }
            if message.is_removal() || Outline::is_done(&message) {
                if !dry_run {
                    trimming.purge(&message).await?;
                }
                trimming.count(&message);
            }
        }
        Ok(trimming.trimmed)
    }

    /// Removes owners of tags that were written longer ago than the bound of age, or are the oldest
    /// while the bucket is over its bound of bytes. An owner stays while a build that was accepted
    /// before it is unfinished, since that build could take the tag, and for [`MIN_TAG_AGE`].
    /// `references` is awaited only if something may have to be removed.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or the references are not known.
    pub async fn trim_tags<E: From<TrimError>>(
        &self,
        bounds: Bounds,
        dry_run: bool,
        may_act: &(dyn Fn() -> bool + Send + Sync),
        references: impl Future<Output = Result<References, E>> + Send,
    ) -> Result<Trimmed, E> {
        let bucket = self.subjects.tags_bucket();
        let (stream, filter) = (bucket_stream(&bucket), bucket_subjects(&bucket));
        let trimming = Trimming::of(self, stream, filter, bounds).await;
        let mut trimming = trimming.map_err(TrimError::from)?;
        if !trimming.is_needed(true) {
            return Ok(trimming.trimmed);
        }
        // Before the owners are read: of what is accepted later, everything is after them.
        let references = references.await?;
        let mut owners = trimming.reader().await.map_err(TrimError::from)?.until_caught_up();
        while may_act() {
            let message = owners.next().await.transpose().map_err(TrimError::from)?;
            let Some(message) = message else { break };
            let least = floor(MIN_TAG_AGE);
            let is_old = trimming.is_older(message.time, bounds.age.max(least));
            let is_too_much = trimming.is_over() && trimming.is_older(message.time, least);
            if !is_old && !is_too_much {
                break;
            }
            let owner = serde_json::from_slice::<TagOwner>(&message.payload);
            let is_free = owner.is_ok_and(|owner| references.are_all_after(owner.order));
            if message.is_removal() || is_free {
                if !dry_run {
                    trimming.purge(&message).await.map_err(TrimError::from)?;
                }
                trimming.count(&message);
            }
        }
        Ok(trimming.trimmed)
    }

    /// Returns what the dead letters take, and the oldest of them that are over the bound of bytes.
    /// The server forgets them by age.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn excess_letters(
        &self,
        bounds: Bounds,
    ) -> Result<(Trimmed, Vec<(ProjectName, DeadLetter)>), TrimError> {
        let (stream, filter) = (self.subjects.dead_stream(), self.subjects.deads());
        let mut trimming = Trimming::of(self, stream, filter, bounds).await?;
        let mut excess = Vec::new();
        if !trimming.is_needed(false) {
            return Ok((trimming.trimmed, excess));
        }
        let mut letters = trimming.reader().await?.until_caught_up();
        while trimming.is_over() {
            let Some(message) = letters.next().await.transpose()? else { break };
            trimming.count(&message);
            if let Some(letter) = letter(message)
                && let Ok(project) = letter.project.parse()
            {
                excess.push((project, letter));
            }
        }
        Ok((trimming.trimmed, excess))
    }
}
