// SPDX-License-Identifier: Apache-2.0

//! One sweep: gathers facts, decides, and repairs.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use slipway_fault::chain;
use slipway_proto::api::RepairsView;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, ProjectName, Timestamp};
use tokio::time::Instant;

use super::memory::{Classes, Due, Memory};
use super::view::{Facts, Repair, decide};
use crate::failpoint::is_off;
use crate::protocol::cancel::{CancelError, supersede};
use crate::protocol::feed::announce_outcome;
use crate::protocol::{Feed, Operations, ProjectedState};
use crate::publish::Stored;
use crate::read::ReadError;
use crate::requests::RequeueError;
use crate::{PublishError, QueryError, Record, RecordError};

/// How many builds are repaired at once.
const MAX_REPAIRS: usize = 8;

/// The share of the time that listing the queue may take, as a divisor. Listing a million builds
/// costs the server a second.
const LISTING_SHARE: u32 = 20;

/// What the events say of many builds at once.
pub trait Projection: Feed {
    /// Why the events could not be read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns the states of builds by all events that are stored now, in the order asked, `None`
    /// for a build without events; no list if that would take too long.
    fn states(
        &self,
        builds: Vec<(ProjectName, BuildId)>,
    ) -> impl Future<Output = Result<Option<Vec<Option<ProjectedState>>>, Self::Error>> + Send;
}

/// Why a sweep could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SweepError<E: std::error::Error + 'static> {
    /// The queue could not be listed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The events could not be read.
    #[error(transparent)]
    Events(E),
}

/// Why a build was not repaired. The next sweep tries again.
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
}

/// One sweep.
pub struct Sweep<'a, O, P, A> {
    /// The queue.
    pub operations: &'a O,
    /// What the events say.
    pub projection: &'a P,
    /// What is known of the records.
    pub memory: &'a Mutex<Memory>,
    /// Whether it may still act: another dispatcher may be the leader by now.
    pub may_act: A,
    /// Whether it was requested and somebody waits.
    pub asked: bool,
}

impl<O: Operations, P: Projection, A: Fn() -> bool + Send + Sync> Sweep<'_, O, P, A> {
    /// Repairs what a crash left undone, and returns the repairs.
    ///
    /// # Errors
    ///
    /// When NATS does not answer, or the events cannot be read.
    pub async fn run(&self) -> Result<RepairsView, SweepError<P::Error>> {
        let now = self.operations.now();
        let stranded = self.stranded(now).await?;
        let (due, unfinished) = {
            let mut memory = self.memory();
            (memory.due(&stranded, now), memory.unfinished())
        };
        let in_queue = self.in_queue(&due, &stranded, now).await?;
        let told = self.told(&due, now).await?;
        let known = due.into_iter().zip(told).map(|(due, told)| {
            let stranded = stranded.contains(&due.view.class);
            let asks = due.view.asks_for_request(now) || (stranded && due.view.is_overdue(now));
            let in_queue = in_queue.as_ref().filter(|_| asks);
            let facts = Facts {
                in_queue: in_queue.map(|builds| builds.contains(&due.view.build)),
                told,
                superseded_by: due.superseded_by,
                stranded,
            };
            (due, facts)
        });
        let known: Vec<(Due, Facts)> = known.collect();
        let repaired = futures::stream::iter(known)
            .map(|(due, facts)| self.look_at(due, facts, now))
            .buffer_unordered(MAX_REPAIRS);
        let nothing = RepairsView { unfinished, ..RepairsView::default() };
        Ok(repaired.fold(nothing, async |total, one| sum(&total, &one)).await)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the builds whose requests are in the queue, if this sweep needs any of them.
    async fn in_queue(
        &self,
        due: &[Due],
        stranded: &Classes,
        now: Timestamp,
    ) -> Result<Option<BTreeSet<BuildId>>, QueryError> {
        // Both are rare.
        let at_once = self.asked || !stranded.is_empty();
        let wanted = !stranded.is_empty() || due.iter().any(|due| due.view.asks_for_request(now));
        let start = Instant::now();
        let too_soon = self.memory().list_again.is_some_and(|again| start < again);
        if !wanted || (too_soon && !at_once) {
            return Ok(None);
        }
        let listed = self.operations.all_in_queue().await?;
        self.memory().list_again = Some(Instant::now() + start.elapsed() * LISTING_SHARE);
        Ok(Some(listed))
    }

    /// Returns the classes whose requests the server does not deliver.
    async fn stranded(&self, now: Timestamp) -> Result<Classes, QueryError> {
        if !self.memory().asks_for_stranded(now) {
            return Ok(Classes::default());
        }
        let found = self.operations.stranded().await?;
        Ok(self.memory().confirm_stranded(&found, now))
    }

    /// Reads the projected state of each build, once the projection has seen all events.
    async fn told(
        &self,
        due: &[Due],
        now: Timestamp,
    ) -> Result<Vec<Option<Option<ProjectedState>>>, SweepError<P::Error>> {
        let mut told = vec![None; due.len()];
        let asked: Vec<usize> =
            (0..due.len()).filter(|index| due[*index].view.asks_for_events(now)).collect();
        if asked.is_empty() {
            return Ok(told);
        }
        let builds: Vec<(ProjectName, BuildId)> = asked
            .iter()
            .map(|index| (due[*index].view.project.clone(), due[*index].view.build))
            .collect();
        let found = self.projection.states(builds).await.map_err(SweepError::Events)?;
        for (index, state) in asked.into_iter().zip(found.into_iter().flatten()) {
            told[index] = Some(state);
        }
        Ok(told)
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
            // It has changed, and the reader delivers it again.
            Ok(false) => {}
            Err(error) => {
                let build = due.view.build;
                tracing::warn!(%build, error = chain(&error), "a repair failed and follows later");
            }
        }
        done
    }

    /// Makes the repairs, unless the record has changed since; returns whether it had not.
    async fn repair(
        &self,
        due: &Due,
        repairs: &[Repair],
        done: &mut RepairsView,
    ) -> Result<bool, RepairError> {
        let (project, id) = (&due.view.project, due.view.build);
        let Some(record) = self.operations.record(project, id).await? else {
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

    /// Makes one repair; returns whether it was needed.
    async fn apply(&self, repair: &Repair, record: &Record) -> Result<bool, RepairError> {
        let operations = self.operations;
        let build = &record.build;
        match repair {
            Repair::TimeOut => return self.time_out(record).await,
            Repair::Supersede(by) => return self.supersede(build, *by).await,
            // Any other answer: it was there, or the next sweep finds it missing again.
            Repair::Enqueue => return Ok(operations.enqueue(build, None).await? == Stored::Now),
            Repair::Requeue => operations.requeue(build).await?,
            Repair::QueuedEvent => return self.publish(Some(Event::queued(build))).await,
            Repair::StartedEvent => return self.publish(Event::started(build)).await,
            Repair::FinishedEvent => return self.publish(Event::finished(build)).await,
            Repair::Bury => {
                if self.letter(build).await?.is_some() {
                    return Ok(false);
                }
                operations.bury(build).await?;
            }
            Repair::DropLetter => {
                // What a replay, interrupted at its last step, left behind.
                let found = self.letter(build).await?;
                let Some(letter) = found.filter(|letter| letter.replays < build.replays) else {
                    return Ok(false);
                };
                operations.drop_letter(&letter).await?;
            }
            Repair::RemoveRequest => operations.remove_request(&build.request).await?,
        }
        Ok(true)
    }

    async fn publish(&self, event: Option<Event>) -> Result<bool, RepairError> {
        let Some(event) = event else { return Ok(false) };
        self.operations.publish(&event).await?;
        Ok(true)
    }

    async fn letter(&self, build: &Build) -> Result<Option<crate::dead::DeadLetter>, ReadError> {
        let request = &build.request;
        self.operations.letter(&request.project, &request.build.to_string()).await
    }

    async fn supersede(&self, build: &Build, by: BuildId) -> Result<bool, RepairError> {
        let (project, id) = (&build.request.project, build.request.build);
        Ok(supersede(self.operations, self.projection, project, id, by).await?)
    }

    async fn time_out(&self, record: &Record) -> Result<bool, RepairError> {
        let now = self.operations.now();
        let Some(change) = record.build.waited_too_long(now) else { return Ok(false) };
        let Ok(next) = record.build.apply(&change, now) else { return Ok(false) };
        let failed = match self.operations.update(next, record.revision).await {
            Ok(updated) => updated.build,
            // A worker has just taken it.
            Err(RecordError::Conflict) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        announce_outcome(self.operations, self.projection, &failed).await;
        self.operations.remove_request(&failed.request).await?;
        Ok(true)
    }
}

/// Adds the repairs of two sweeps, or of two repairs of one sweep.
#[must_use]
pub fn sum(one: &RepairsView, other: &RepairsView) -> RepairsView {
    RepairsView {
        unfinished: one.unfinished + other.unfinished,
        enqueued: one.enqueued + other.enqueued,
        queued_events: one.queued_events + other.queued_events,
        started_events: one.started_events + other.started_events,
        finished_events: one.finished_events + other.finished_events,
        dead_letters: one.dead_letters + other.dead_letters,
        messages_removed: one.messages_removed + other.messages_removed,
        timed_out: one.timed_out + other.timed_out,
        superseded: one.superseded + other.superseded,
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
        // Nobody waits for this.
        Repair::DropLetter => return None,
    })
}
