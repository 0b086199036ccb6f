// SPDX-License-Identifier: Apache-2.0

//! One sweep: finds out what may be wrong, decides, and repairs.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use slipway_fault::chain;
use slipway_proto::api::RepairsView;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, ProjectName, Timestamp};
use slipway_queue::publish::Stored;
use slipway_queue::read::ReadError;
use slipway_queue::requests::RequeueError;
use slipway_queue::{PublishError, QueryError, Record, RecordError, is_off};
use tokio::time::Instant;

use super::memory::{Classes, Due, Memory};
use super::view::{Facts, Repair, decide};
use crate::app::App;
use crate::builds::announce::announce_outcome;
use crate::builds::cancel::CancelError;
use crate::builds::supersede::supersede;
use crate::events::projection::{ProjectionError, Stand};
use crate::metrics;

/// How long the projection may take to catch up with the events that were there at the start.
const FOLDED_WITHIN: Duration = Duration::from_secs(2);

/// How many builds are repaired at once.
const CONCURRENCY: usize = 8;

/// The part of the time that listing the queue may take, as a divisor: listing a million builds
/// costs the server a second.
const LISTING_SHARE: u32 = 20;

/// Why a sweep could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// The streams could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The queue could not be listed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The projection could not be read.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
}

/// Why a build was not repaired; the next sweep tries again.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Requeue(#[from] RequeueError),
    #[error(transparent)]
    Cancel(#[from] CancelError),
    #[error("failed to drop a dead letter")]
    Drop(#[source] QueryError),
}

/// One sweep.
pub(super) struct Sweep<'a, A> {
    pub(super) app: &'a App,
    pub(super) memory: &'a Mutex<Memory>,
    /// Whether it may still act: another dispatcher may be the leader by now.
    pub(super) may_act: A,
    /// Whether somebody asked for it and waits.
    pub(super) asked: bool,
}

impl<A: Fn() -> bool> Sweep<'_, A> {
    /// Repairs what a crash left undone, and says what that was.
    pub(super) async fn run(&self) -> Result<RepairsView, SweepError> {
        let now = Timestamp::now();
        let stranded = self.stranded(now).await?;
        let (due, unfinished) = {
            let mut memory = self.memory();
            (memory.due(&stranded, now), memory.unfinished())
        };
        let in_queue = self.in_queue(&due, &stranded, now).await?;
        let stands = self.stands(&due, now).await?;
        let known = due.into_iter().zip(stands).map(|(due, stand)| {
            let stranded = stranded.contains(&due.view.class);
            let asks = due.view.asks_for_request(now) || (stranded && due.view.is_overdue(now));
            let in_queue = in_queue.as_ref().filter(|_| asks);
            let facts = Facts {
                in_queue: in_queue.map(|builds| builds.contains(&due.view.build)),
                stand,
                superseded_by: due.superseded_by,
                stranded,
            };
            (due, facts)
        });
        let known: Vec<(Due, Facts)> = known.collect();
        let repaired = futures::stream::iter(known)
            .map(|(due, facts)| self.look_at(due, facts, now))
            .buffer_unordered(CONCURRENCY);
        let nothing = RepairsView { unfinished, ..RepairsView::default() };
        Ok(repaired.fold(nothing, async |sum, one| metrics::sum(&sum, &one)).await)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the builds whose requests stand in the queue, if any of them is to be looked for.
    async fn in_queue(
        &self,
        due: &[Due],
        stranded: &Classes,
        now: Timestamp,
    ) -> Result<Option<BTreeSet<BuildId>>, SweepError> {
        // Hardly ever, and seldom looked for.
        let at_once = self.asked || !stranded.is_empty();
        let wanted = !stranded.is_empty() || due.iter().any(|due| due.view.asks_for_request(now));
        let start = Instant::now();
        let too_soon = self.memory().list_again.is_some_and(|again| start < again);
        if !wanted || (too_soon && !at_once) {
            return Ok(None);
        }
        let listed = self.app.queue.all_in_queue().await?;
        self.memory().list_again = Some(Instant::now() + start.elapsed() * LISTING_SHARE);
        Ok(Some(listed))
    }

    /// Returns the classes whose requests the server does not deliver.
    async fn stranded(&self, now: Timestamp) -> Result<Classes, SweepError> {
        if !self.memory().asks_for_stranded(now) {
            return Ok(Classes::default());
        }
        let found = self.app.queue.stranded().await?;
        Ok(self.memory().confirm_stranded(&found, now))
    }

    /// Reads what the events say of each build, once the projection has seen all of them.
    async fn stands(
        &self,
        due: &[Due],
        now: Timestamp,
    ) -> Result<Vec<Option<Option<Stand>>>, SweepError> {
        let mut stands = vec![None; due.len()];
        let asked: Vec<usize> =
            (0..due.len()).filter(|index| due[*index].view.asks_for_stand(now)).collect();
        if asked.is_empty() {
            return Ok(stands);
        }
        let last = self.app.queue.events_position().await?.last_sequence;
        if tokio::time::timeout(FOLDED_WITHIN, self.app.feed.folded(last)).await.is_err() {
            tracing::debug!(last, "the projection is behind; events are looked for later");
            return Ok(stands);
        }
        let builds: Vec<(ProjectName, BuildId)> = asked
            .iter()
            .map(|index| (due[*index].view.project.clone(), due[*index].view.build))
            .collect();
        let found = self.app.projection.stands(builds).await?;
        for (index, stand) in asked.into_iter().zip(found) {
            stands[index] = Some(stand);
        }
        Ok(stands)
    }

    /// Decides about one build, and repairs it.
    async fn look_at(&self, due: Due, facts: Facts, now: Timestamp) -> RepairsView {
        let mut repairs = decide(&due.view, &facts, now);
        if is_off("accept-reconciler") {
            repairs.retain(|repair| *repair != Repair::Enqueue);
        }
        let mut done = RepairsView::default();
        let outcome = match repairs.as_slice() {
            [] => Ok(true),
            repairs => self.repair(&due, repairs, &mut done).await,
        };
        match outcome {
            Ok(true) => self.memory().settle(&due, &facts, &repairs, now),
            // It has changed: the reader brings it again.
            Ok(false) => {}
            Err(error) => {
                let build = due.view.build;
                tracing::warn!(%build, error = chain(&error), "a build is repaired later");
            }
        }
        done
    }

    /// Does what was decided, unless the record has changed since; returns whether it had not.
    async fn repair(
        &self,
        due: &Due,
        repairs: &[Repair],
        done: &mut RepairsView,
    ) -> Result<bool, RepairError> {
        let (project, id) = (&due.view.project, due.view.build);
        let Some(record) = self.app.builds.record(project, id).await? else {
            self.memory().forget(project, id);
            return Ok(false);
        };
        if record.revision != due.view.revision {
            return Ok(false);
        }
        for repair in repairs {
            if !(self.may_act)() {
                return Ok(false);
            }
            if self.apply(repair, &record).await? {
                tracing::info!(build = %id, repair = name(repair), "repaired");
                if let Some(counter) = counter(repair, done) {
                    *counter += 1;
                }
            }
        }
        Ok(true)
    }

    /// Does one repair; returns whether it was needed.
    async fn apply(&self, repair: &Repair, record: &Record) -> Result<bool, RepairError> {
        let queue = &self.app.queue;
        let build = &record.build;
        let request = &build.request;
        match repair {
            Repair::TimeOut => return self.time_out(record).await,
            Repair::Supersede(by) => {
                return Ok(supersede(self.app, &request.project, request.build, *by).await?);
            }
            // Anything else than now: it was there, or the next sweep finds it missing again.
            Repair::Enqueue => return Ok(queue.enqueue(build, None).await? == Stored::Now),
            Repair::Requeue => queue.requeue(build).await?,
            Repair::QueuedEvent => queue.publish_event(&Event::queued(build)).await?,
            Repair::StartedEvent => {
                let Some(event) = Event::started(build) else { return Ok(false) };
                queue.publish_event(&event).await?;
            }
            Repair::FinishedEvent => {
                let Some(event) = Event::finished(build) else { return Ok(false) };
                queue.publish_event(&event).await?;
            }
            Repair::Bury => {
                if queue.is_buried(&request.project, request.build).await? {
                    return Ok(false);
                }
                queue.bury(build).await?;
            }
            Repair::DropLetter => return self.drop_letter(build).await,
            Repair::RemoveRequest => queue.remove_request(request).await?,
        }
        Ok(true)
    }

    /// Drops the letter that a replay, interrupted at its last step, left behind.
    async fn drop_letter(&self, build: &Build) -> Result<bool, RepairError> {
        let request = &build.request;
        let found =
            self.app.queue.dead_letter(&request.project, &request.build.to_string()).await?;
        let Some(letter) = found.filter(|letter| letter.replays < build.replays) else {
            return Ok(false);
        };
        self.app.queue.drop_letter(&letter).await.map_err(RepairError::Drop)?;
        Ok(true)
    }

    async fn time_out(&self, record: &Record) -> Result<bool, RepairError> {
        let now = Timestamp::now();
        let Some(change) = record.build.waited_too_long(now) else { return Ok(false) };
        let Ok(next) = record.build.apply(&change, now) else { return Ok(false) };
        let failed = match self.app.queue.records().update(next, record.revision).await {
            Ok(updated) => updated.build,
            // A worker has just taken it.
            Err(RecordError::Conflict) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        announce_outcome(self.app, &failed).await;
        self.app.queue.remove_request(&failed.request).await?;
        Ok(true)
    }
}

fn name(repair: &Repair) -> &'static str {
    match repair {
        Repair::TimeOut => "timed_out",
        Repair::Supersede(_) => "superseded",
        Repair::Enqueue => "enqueued",
        Repair::Requeue => "requeued",
        Repair::QueuedEvent => "queued_event",
        Repair::StartedEvent => "started_event",
        Repair::FinishedEvent => "finished_event",
        Repair::Bury => "dead_letter",
        Repair::DropLetter => "letter_dropped",
        Repair::RemoveRequest => "message_removed",
    }
}

fn counter<'a>(repair: &Repair, view: &'a mut RepairsView) -> Option<&'a mut u64> {
    Some(match repair {
        Repair::TimeOut => &mut view.timed_out,
        Repair::Supersede(_) => &mut view.superseded,
        Repair::Enqueue | Repair::Requeue => &mut view.enqueued,
        Repair::QueuedEvent => &mut view.queued_events,
        Repair::StartedEvent => &mut view.started_events,
        Repair::FinishedEvent => &mut view.finished_events,
        Repair::Bury => &mut view.dead_letters,
        Repair::RemoveRequest => &mut view.messages_removed,
        // Nothing that anybody waits for.
        Repair::DropLetter => return None,
    })
}
