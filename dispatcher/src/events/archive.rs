// SPDX-License-Identifier: Apache-2.0

//! Moves the logs of finished builds from the stream `LOGS` into the artifact store.
//!
//! All dispatchers share one durable consumer of outcomes, so each log is moved once, and a crash
//! in between has it moved again. A log is removed from the stream only when its outcome is
//! delivered for the second time, a minute after it was archived: whoever was reading the end of
//! the log has got it by then.
//!
//! A build that was ended by others than its worker, by a cancellation say, has an outcome before
//! the worker has written its last line. Such a log is archived when that line is there, or after a
//! minute. What comes later still, as from a worker that was frozen, or from a replay of a dead
//! letter, is put behind what was archived when the outcome is delivered for the second time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use slipway_artifact::{ArtifactStore, StoreError};
use slipway_fault::{Pauses, chain};
use slipway_proto::{Build, BuildId, Phase, ProjectName, Timestamp};
use slipway_queue::Queue;
use slipway_queue::log::LogEnd;
use slipway_queue::read::ReadError;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::until_nats_is_back;
use crate::metrics::Metrics;

/// The durable consumer's name, shared by all dispatchers of a prefix.
const CONSUMER: &str = "log-archiver";

/// How long an archived log stays in the stream, and how soon a log whose archiver died is taken up
/// again.
const KEPT: Duration = Duration::from_secs(60);

/// How soon it is looked again whether a worker has ended its log.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How many outcomes may be on their way at once. Each of them waits for `KEPT`, so this bounds the
/// archiver at some 8,000 builds a second; the default of 1,000 would at 16.
const MAX_ACK_PENDING: i64 = 500_000;

/// How many logs are moved at once when many wait. Each takes a few MiB at most, for the part being
/// written.
const CONCURRENCY: usize = 4;

/// From how many waiting outcomes on logs are moved as fast as it goes, and not one by one with a rest
/// behind each.
///
/// A log that waits costs nobody anything: who reads it reads the stream. To move it costs two waits
/// for the disk and half as much of the processors as the whole build did, which thousands of builds
/// a second have better use for. So many logs of 64 KiB each are a third of what the stream may hold.
const MANY: u64 = 10_000;

/// How many times as long as it took to move a log the archiver rests behind it, while few wait.
const REST: u32 = 3;

/// The longest rest: a store that is far away takes its time and not that of a processor.
const MAX_REST: Duration = Duration::from_millis(10);

/// How long the server may take over one step.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest wait for outcomes in one pull; only bounds how long a lost pull goes unnoticed.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("failed to use the consumer {CONSUMER}")]
    Consumer(#[source] async_nats::Error),
    #[error("failed to read the log")]
    Read(#[from] ReadError),
    #[error("failed to look for the end of the log")]
    End(#[source] async_nats::Error),
    #[error("failed to keep the log")]
    Store(#[from] StoreError),
    #[error("failed to read the live record")]
    Record(#[from] slipway_queue::RecordError),
    #[error("failed to remove the log from the stream")]
    Purge(#[source] async_nats::Error),
    #[error("failed to acknowledge")]
    Acknowledge(#[source] async_nats::Error),
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
        let mut backoff = until_nats_is_back();
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
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            description: Some("moves logs of finished builds to the artifact store".to_owned()),
            filter_subject: self.queue.subjects().outcomes(),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: KEPT,
            max_ack_pending: MAX_ACK_PENDING,
            ..Default::default()
        };
        let consumer = self
            .queue
            .jetstream()
            .create_consumer_on_stream(config, self.queue.subjects().events_stream())
            .await
            .map_err(|error| ArchiveError::Consumer(error.into()))?;
        let messages = consumer
            .stream()
            // Few at a time: those that wait here would be delivered to another after `KEPT`.
            .max_messages_per_batch(CONCURRENCY * 4)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .map_err(|error| ArchiveError::Consumer(error.into()))?;
        let turn = &Mutex::new(());
        let mut outcomes = messages
            .map(|message| async move {
                let message = message.map_err(|error| ArchiveError::Consumer(error.into()))?;
                let waiting = message.info().map_err(ArchiveError::Acknowledge)?.pending;
                let alone = if waiting < MANY { Some(turn.lock().await) } else { None };
                let begun = Instant::now();
                if let Err(error) = self.take(&message).await {
                    tracing::warn!(
                        subject = %message.subject,
                        error = chain(&error),
                        "a log was not archived; trying again in a minute"
                    );
                    acknowledge(&message, AckKind::Nak(Some(KEPT))).await?;
                }
                if alone.is_some() {
                    tokio::time::sleep((begun.elapsed() * REST).min(MAX_REST)).await;
                }
                Ok::<_, ArchiveError>(())
            })
            .buffer_unordered(CONCURRENCY);
        while let Some(outcome) = outcomes.next().await {
            outcome?;
            backoff.reset();
        }
        Ok(())
    }

    async fn take(&self, message: &async_nats::jetstream::Message) -> Result<(), ArchiveError> {
        let Some((project, build)) = build_of(message) else {
            tracing::warn!(subject = %message.subject, "an outcome of no build");
            return acknowledge(message, AckKind::Ack).await;
        };
        let Some(kept) = self.store.get_log(&project, build).await? else {
            let end = self.end(&project, build).await?;
            if is_being_written(message, end.as_ref())? {
                return acknowledge(message, AckKind::Nak(Some(LOOK_AGAIN))).await;
            }
            let log = self.log(&project, build, end).await?;
            return self.keep(message, &project, build, log).await;
        };
        let records = self.queue.records();
        let record = tokio::time::timeout(DEADLINE, records.get(&project, build)).await??;
        if let Some(record) = record
            && may_have_grown(&record.build)
        {
            if !record.build.state.is_finished() {
                // Its next outcome takes care of all that is there by then.
                return acknowledge(message, AckKind::Ack).await;
            }
            // Whole, in memory: such builds are few, and logs are small.
            let kept = whole(kept).await?;
            let end = self.end(&project, build).await?;
            let log = whole(self.log(&project, build, end).await?).await?;
            if let Some(log) = both(&kept, &log) {
                let log = futures::stream::iter([Ok::<_, ReadError>(log)]);
                return self.keep(message, &project, build, log).await;
            }
        }
        tokio::time::timeout(DEADLINE, self.queue.purge_log(&project, build))
            .await?
            .map_err(ArchiveError::Purge)?;
        acknowledge(message, AckKind::Ack).await
    }

    /// Looks where the log ends as far as the stream holds it.
    async fn end(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<LogEnd>, ArchiveError> {
        let end = tokio::time::timeout(DEADLINE, self.queue.end_of_log(project, build)).await?;
        end.map_err(ArchiveError::End)
    }

    /// Reads what the stream holds of a log, up to its end.
    async fn log(
        &self,
        project: &ProjectName,
        build: BuildId,
        end: Option<LogEnd>,
    ) -> Result<impl Stream<Item = Result<Bytes, ReadError>> + Send + use<>, ArchiveError> {
        let Some(end) = end else { return Ok(futures::stream::empty().left_stream()) };
        let log = self.queue.log_up_to(project, build, end);
        Ok(tokio::time::timeout(DEADLINE, log).await??.right_stream())
    }

    /// Keeps a log, and has the outcome delivered again to remove it from the stream.
    async fn keep(
        &self,
        message: &async_nats::jetstream::Message,
        project: &ProjectName,
        build: BuildId,
        log: impl Stream<Item = Result<Bytes, ReadError>> + Send,
    ) -> Result<(), ArchiveError> {
        self.store.put_log(project, build, log).await?;
        self.metrics.logs_archived.fetch_add(1, Ordering::Relaxed);
        acknowledge(message, AckKind::Nak(Some(KEPT))).await
    }
}

/// Returns whether a worker that did not give the build its outcome is still to end the log.
fn is_being_written(
    message: &async_nats::jetstream::Message,
    end: Option<&LogEnd>,
) -> Result<bool, ArchiveError> {
    let told = message.info().map_err(ArchiveError::Acknowledge)?.published;
    let now = Timestamp::now().as_nanosecond();
    if now - told.unix_timestamp_nanos() > KEPT.as_nanos().cast_signed() {
        return Ok(false);
    }
    Ok(end.is_some_and(|end| !end.is_closed))
}

/// Reads a log to its end.
pub(crate) async fn whole<E>(log: impl Stream<Item = Result<Bytes, E>>) -> Result<Bytes, E> {
    let joined = log.try_fold(BytesMut::new(), async |mut log, chunk| {
        log.extend_from_slice(&chunk);
        Ok(log)
    });
    Ok(joined.await?.freeze())
}

/// Returns whether a build's log may hold more than when its outcome was first told. A build that
/// succeeded in its only attempt has said all before that.
fn may_have_grown(build: &Build) -> bool {
    !(build.state.epoch == 1 && matches!(build.state.phase, Phase::Succeeded { .. }))
}

/// Puts what the stream holds behind what was kept; `None` if it was kept already.
pub(crate) fn both(kept: &[u8], log: &[u8]) -> Option<Bytes> {
    if kept.ends_with(log) {
        return None;
    }
    // It may not have been removed before the replay.
    let new = log.strip_prefix(kept).unwrap_or(log);
    Some(Bytes::from([kept, new].concat()))
}

async fn acknowledge(
    message: &async_nats::jetstream::Message,
    kind: AckKind,
) -> Result<(), ArchiveError> {
    tokio::time::timeout(DEADLINE, message.ack_with(kind)).await?.map_err(ArchiveError::Acknowledge)
}

fn build_of(message: &async_nats::jetstream::Message) -> Option<(ProjectName, BuildId)> {
    let project = message.subject.split('.').nth(2)?.parse().ok()?;
    let header = message.headers.as_ref()?.get(slipway_queue::publish::header::BUILD_ID)?;
    Some((project, header.as_str().parse().ok()?))
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
