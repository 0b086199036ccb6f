// SPDX-License-Identifier: Apache-2.0

//! Moves the logs of finished builds from the stream `LOGS` into the artifact store.
//!
//! All dispatchers share one durable consumer of outcomes, so each log is moved once, and again
//! after a crash. A log is removed from the stream only when its outcome is delivered for the
//! second time, a minute after it was archived. By then its readers have reached the end.
//!
//! A build that was not ended by its worker, for example a cancelled one, has an outcome before the
//! worker has written its last line. Such a log is archived when that line is there, or after a
//! minute. Later lines, as from a frozen worker or a replay of a dead letter, are appended when the
//! outcome is delivered for the second time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use slipway_artifact::{ArtifactStore, StoreError};
use slipway_fault::{Pauses, chain};
use slipway_proto::{Build, BuildId, Phase, ProjectName, Timestamp};
use slipway_queue::log::LogEnd;
use slipway_queue::outcomes::{Outcome, OutcomeError};
use slipway_queue::read::ReadError;
use slipway_queue::reconnect::UNTIL_NATS_IS_BACK;
use slipway_queue::{QueryError, Queue};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How long an archived log stays in the stream, and how soon a log whose archiver died is archived
/// by another.
const PURGE_AFTER: Duration = Duration::from_secs(60);

/// How often the end of a worker's log is checked.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How many logs are moved at once when many wait. Each takes at most a few MiB, for the part being
/// written.
const MAX_LOGS_MOVED: usize = 4;

/// From this number of waiting outcomes on, logs are moved as fast as possible, and not one by one
/// with a rest after each.
///
/// A waiting log costs nothing, because its readers read the stream. Moving it costs two disk
/// flushes and half as much processor time as the whole build, which thousands of builds a second
/// need more. This many logs of 64 KiB are a third of what the stream holds.
const KEEPS_UP_TO: u64 = 10_000;

/// The rest after a log, as a multiple of the time it took to move it, while few logs wait.
const MOVE_REST: u32 = 3;

/// The longest rest. A distant store takes long without using the processor.
const MAX_MOVE_REST: Duration = Duration::from_millis(10);

/// How long the server may take over one step.
const STEP_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
    #[error("failed to read the log")]
    Read(#[from] ReadError),
    #[error("failed to find the end of the log, or to remove the log from the stream")]
    Query(#[from] QueryError),
    #[error("failed to keep the log")]
    Store(#[from] StoreError),
    #[error("failed to read the live record")]
    Record(#[from] slipway_queue::RecordError),
    #[error("the server took too long")]
    Deadline(#[from] tokio::time::error::Elapsed),
}

/// Moves logs.
#[derive(Debug, Clone)]
pub(crate) struct Archiver {
    pub(crate) queue: Queue,
    pub(crate) store: ArtifactStore,
    pub(crate) metrics: Arc<Metrics>,
}

impl Archiver {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = UNTIL_NATS_IS_BACK.pauses();
        loop {
            match stop.run_until_cancelled(self.serve(&mut backoff)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(error = chain(&error), "the log archiver starts over");
                }
            }
            if !backoff.wait_unless(stop.cancelled()).await {
                return;
            }
        }
    }

    async fn serve(&self, backoff: &mut Pauses) -> Result<(), ArchiveError> {
        // Few at a time, because outcomes that wait here are delivered to another archiver after a
        // minute.
        let outcomes = self.queue.outcomes(MAX_LOGS_MOVED * 4, PURGE_AFTER).await?;
        let turn = &Mutex::new(());
        let mut taken = outcomes
            .map(|outcome| async move {
                let outcome = outcome?;
                let alone =
                    if outcome.waiting < KEEPS_UP_TO { Some(turn.lock().await) } else { None };
                let begun = Instant::now();
                if let Err(error) = self.take(&outcome).await {
                    tracing::warn!(
                        subject = outcome.subject(),
                        error = chain(&error),
                        "a log was not archived; trying again in a minute"
                    );
                    again_in(&outcome, PURGE_AFTER).await?;
                }
                if alone.is_some() {
                    tokio::time::sleep((begun.elapsed() * MOVE_REST).min(MAX_MOVE_REST)).await;
                }
                Ok::<_, ArchiveError>(())
            })
            .buffer_unordered(MAX_LOGS_MOVED);
        while let Some(taken) = taken.next().await {
            taken?;
            backoff.reset();
        }
        Ok(())
    }

    async fn take(&self, outcome: &Outcome) -> Result<(), ArchiveError> {
        let Some((project, build)) = outcome.ids() else {
            tracing::warn!(subject = outcome.subject(), "an outcome of no build");
            return done(outcome).await;
        };
        let Some(kept) = self.store.get_log(&project, build).await? else {
            let end = self.end(&project, build).await?;
            if is_being_written(outcome, end.as_ref()) {
                return again_in(outcome, LOOK_AGAIN).await;
            }
            let log = self.log(&project, build, end).await?;
            return self.keep(outcome, &project, build, log).await;
        };
        let records = self.queue.records();
        let record = tokio::time::timeout(STEP_WITHIN, records.get(&project, build)).await??;
        if let Some(record) = record
            && may_have_grown(&record.build)
        {
            if !record.build.state.is_finished() {
                // Its next outcome covers everything that is there by then.
                return done(outcome).await;
            }
            // The whole log is in memory, because such builds are few and logs are small.
            let kept = whole(kept).await?;
            let end = self.end(&project, build).await?;
            let log = whole(self.log(&project, build, end).await?).await?;
            if let Some(log) = both(&kept, &log) {
                let log = futures::stream::iter([Ok::<_, ReadError>(log)]);
                return self.keep(outcome, &project, build, log).await;
            }
        }
        tokio::time::timeout(STEP_WITHIN, self.queue.purge_log(&project, build)).await??;
        done(outcome).await
    }

    /// Finds the end of the log in the stream.
    async fn end(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<LogEnd>, ArchiveError> {
        let end = self.queue.end_of_log(project, build);
        Ok(tokio::time::timeout(STEP_WITHIN, end).await??)
    }

    /// Reads the part of a log that the stream holds.
    async fn log(
        &self,
        project: &ProjectName,
        build: BuildId,
        end: Option<LogEnd>,
    ) -> Result<impl Stream<Item = Result<Bytes, ReadError>> + Send + use<>, ArchiveError> {
        let Some(end) = end else { return Ok(futures::stream::empty().left_stream()) };
        let log = self.queue.log_up_to(project, build, end);
        Ok(tokio::time::timeout(STEP_WITHIN, log).await??.right_stream())
    }

    /// Archives a log, and lets the outcome be delivered again to remove it from the stream.
    async fn keep(
        &self,
        outcome: &Outcome,
        project: &ProjectName,
        build: BuildId,
        log: impl Stream<Item = Result<Bytes, ReadError>> + Send,
    ) -> Result<(), ArchiveError> {
        self.store.put_log(project, build, log).await?;
        self.metrics.logs_archived.fetch_add(1, Ordering::Relaxed);
        again_in(outcome, PURGE_AFTER).await
    }
}

/// Returns whether a worker that did not end the build must still end the log.
fn is_being_written(outcome: &Outcome, end: Option<&LogEnd>) -> bool {
    let age = Timestamp::now().duration_since(outcome.published_at);
    let is_recent = Duration::try_from(age).map_or(true, |age| age <= PURGE_AFTER);
    is_recent && end.is_some_and(|end| !end.is_closed)
}

/// Reads a log to its end.
pub(crate) async fn whole<E>(log: impl Stream<Item = Result<Bytes, E>>) -> Result<Bytes, E> {
    let joined = log.try_fold(BytesMut::new(), async |mut log, chunk| {
        log.extend_from_slice(&chunk);
        Ok(log)
    });
    Ok(joined.await?.freeze())
}

/// Returns whether a build's log may have grown since its outcome was first delivered. A build that
/// succeeded in its only attempt has logged everything before that.
fn may_have_grown(build: &Build) -> bool {
    !(build.state.epoch == 1 && matches!(build.state.phase, Phase::Succeeded { .. }))
}

/// Appends the stream's part to the archived one; `None` if it is already archived.
pub(crate) fn both(kept: &[u8], log: &[u8]) -> Option<Bytes> {
    if kept.ends_with(log) {
        return None;
    }
    // It may still be in the stream since before the replay.
    let new = log.strip_prefix(kept).unwrap_or(log);
    Some(Bytes::from([kept, new].concat()))
}

async fn done(outcome: &Outcome) -> Result<(), ArchiveError> {
    Ok(tokio::time::timeout(STEP_WITHIN, outcome.done()).await??)
}

async fn again_in(outcome: &Outcome, delay: Duration) -> Result<(), ArchiveError> {
    Ok(tokio::time::timeout(STEP_WITHIN, outcome.again_in(delay)).await??)
}

#[cfg(test)]
mod tests {
    use super::both;

    #[test]
    fn a_replays_log_comes_behind_the_first_and_once() {
        let joined = |kept: &str, log: &str| both(kept.as_bytes(), log.as_bytes());
        let whole = Some("one\ntwo\n".into());
        assert_eq!(joined("one\n", "two\n"), whole, "the first was removed from the stream");
        assert_eq!(joined("one\n", "one\ntwo\n"), whole, "it was not");
        for log in ["two\n", "one\ntwo\n", ""] {
            assert_eq!(joined("one\ntwo\n", log), None, "{log:?}");
        }
    }
}
