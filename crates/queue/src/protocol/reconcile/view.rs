// SPDX-License-Identifier: Apache-2.0

//! What the reconciler remembers of a record, and what may be wrong with it: a pure function of the
//! record, the queue and the events.
//!
//! A record is left alone until it has not changed for a while, since in the middle of a step of
//! dispatcher or worker it looks like one that a crash interrupted.

use crate::protocol::ProjectedState;
use crate::record::Stored;
use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::IgnoredAny;
use slipway_proto::api::StateName;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, PoolName, Priority, ProjectName, Timestamp};

/// How long a record must not have changed before it is repaired. Longer than a step takes on a
/// server that flushes each message. A build without a request waits that much longer.
pub const UNCHANGED_FOR: SignedDuration = SignedDuration::from_secs(5);

/// How long the request of a finished build may stay in the queue: the worker that ended it
/// acknowledges it, or, if it died, the next to get it after one lease of 15 s.
const ACKNOWLEDGED_WITHIN: SignedDuration = SignedDuration::from_secs(20);

/// How often the queue is checked for the request of a waiting or running build.
const LOOKED_FOR_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// How long a build may wait while the server counts nothing as waiting, before its request counts
/// as stranded.
const TAKEN_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// How often missing events of one record are published before they are given up, because then
/// something else is wrong with the projection.
const MAX_EVENT_TRIES: u8 = 5;

/// The remembered part of a record.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) project: ProjectName,
    pub(super) build: BuildId,
    pub(super) revision: u64,
    pub(super) state: StateName,
    pub(super) epoch: Epoch,
    pub(super) replays: u32,
    pub(super) order: u64,
    /// Whether an attempt has started since it was queued or replayed.
    pub(super) started: bool,
    /// Whether its request belongs in the dead-letter stream.
    pub(super) dead: bool,
    /// Whether a worker must check its tags before its request may be removed.
    leaves_tags: bool,
    pub(super) class: (PoolName, Priority),
    pub(super) queued_since: Timestamp,
    /// For a retry: when it may start.
    not_before: Option<Timestamp>,
    /// While it waits for its first attempt: the deadline.
    pub(super) waits_until: Option<Timestamp>,
    pub(super) finished_at: Option<Timestamp>,
    pub(super) supersede_key: Option<Box<str>>,
    /// When this revision of the record was first seen.
    pub(super) seen_at: Timestamp,
    /// Whether its events are known to exist, or were given up.
    pub(super) events_settled: bool,
    event_tries: u8,
    /// Whether its dead letter, if it needs one, is known to exist.
    pub(super) letter_settled: bool,
    /// When the queue was last checked for its request; for a finished build, when the request was
    /// found gone.
    pub(super) request_seen_to: Option<Timestamp>,
    /// Whether it is finished and its request is still there, because a worker must check its tags.
    awaits_worker: bool,
}

/// Something that a crash left undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Repair {
    /// It waited longer than its limit.
    TimeOut,
    /// A later build supersedes it.
    Supersede(BuildId),
    /// Its request is not in the queue.
    Enqueue,
    /// Its request is in the queue, and the server does not deliver it.
    Requeue,
    /// `build.queued` is missing.
    QueuedEvent,
    /// `build.started` is missing.
    StartedEvent,
    /// `build.finished` is missing.
    FinishedEvent,
    /// Its request belongs in the dead-letter stream, unless it is there.
    Bury,
    /// It was replayed, and the replayed letter may still exist.
    DropLetter,
    /// Its request is still in the queue.
    RemoveRequest,
}

/// What a sweep knows of a build in addition to its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Whether its request is in the queue; `None` if that is unknown.
    pub(super) in_queue: Option<bool>,
    /// Its projected state; `None` if that is unknown, or the projection is behind.
    pub(super) told: Option<Option<ProjectedState>>,
    /// The later build of its supersede key.
    pub(super) superseded_by: Option<BuildId>,
    /// Whether its class has requests that the server neither delivers nor counts as waiting.
    pub(super) stranded: bool,
}

impl View {
    /// Reads a record.
    pub(super) fn read(stored: &Stored, seen_at: Timestamp) -> Result<Self, serde_json::Error> {
        let outline: Outline = serde_json::from_slice(&stored.document)?;
        let Outline { request, state, .. } = outline;
        let phase = state.phase;
        let ended_well = phase.phase == StateName::Succeeded;
        let waits = phase.phase == StateName::Queued && outline.started_at.is_none();
        let limit = SignedDuration::from_secs(i64::from(request.queue_timeout_s));
        let queued_since = outline.replayed_at.unwrap_or(outline.accepted_at);
        let order = if outline.order == 0 { stored.revision } else { outline.order };
        Ok(Self {
            project: request.project,
            build: request.build,
            revision: stored.revision,
            state: phase.phase,
            epoch: state.epoch,
            replays: outline.replays,
            order,
            started: outline.started_at.is_some() && outline.last_worker.is_some(),
            dead: phase.dead,
            leaves_tags: outline.tagging && phase.phase.is_finished() && !ended_well,
            class: (request.pool, request.priority),
            queued_since,
            not_before: phase.not_before,
            waits_until: waits.then(|| after(queued_since, limit)),
            finished_at: outline.finished_at,
            supersede_key: request.supersede_key,
            seen_at,
            events_settled: false,
            event_tries: 0,
            letter_settled: false,
            request_seen_to: None,
            awaits_worker: false,
        })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.is_finished()
    }

    fn is_at_rest(&self, now: Timestamp) -> bool {
        let changed = self.finished_at.unwrap_or(self.queued_since);
        now >= after(self.seen_at, UNCHANGED_FOR) && now >= after(changed, UNCHANGED_FOR)
    }

    fn waited_too_long(&self, now: Timestamp) -> bool {
        self.waits_until.is_some_and(|until| now >= until)
    }

    /// Returns whether this sweep must search the queue for its request.
    pub(super) fn asks_for_request(&self, now: Timestamp) -> bool {
        if !self.is_at_rest(now) {
            return false;
        }
        match (self.finished_at.filter(|_| self.is_finished()), self.request_seen_to) {
            (Some(ended), None) => now >= after(ended, ACKNOWLEDGED_WITHIN),
            (Some(_), Some(_)) if !self.awaits_worker => false,
            (None, None) => true,
            (_, Some(looked)) => now >= after(looked, LOOKED_FOR_EVERY),
        }
    }

    /// Returns whether a worker would have taken it long ago if the server delivered it.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        let could_start = self.not_before.map_or(self.seen_at, |time| time.max(self.seen_at));
        (!self.is_finished() || self.awaits_worker) && now >= after(could_start, TAKEN_WITHIN)
    }

    /// Returns whether this sweep must look at what the events say.
    pub(super) fn asks_for_events(&self, now: Timestamp) -> bool {
        !self.events_settled && self.is_at_rest(now)
    }

    /// Returns whether a letter may be missing or left over.
    fn concerns_letter(&self) -> bool {
        self.dead || self.replays > 0
    }

    fn asks_for_letter(&self, now: Timestamp) -> bool {
        self.concerns_letter() && !self.letter_settled && self.is_at_rest(now)
    }

    /// Returns whether there is anything to find out or to do.
    pub(super) fn is_due(&self, superseded: bool, now: Timestamp) -> bool {
        superseded
            || self.waited_too_long(now)
            || self.asks_for_request(now)
            || self.asks_for_events(now)
            || self.asks_for_letter(now)
    }

    /// Returns whether a later build supersedes it. The build must be later in every sense, so a
    /// replay that was requested afterwards stays.
    pub(super) fn gives_way_to(&self, order: u64, since: Timestamp) -> bool {
        let early = matches!(self.state, StateName::Queued | StateName::Running);
        early && self.order < order && (self.replays == 0 || self.queued_since < since)
    }

    /// Returns whether nothing is left to check. A finished build is checked once.
    pub(super) fn is_settled(&self) -> bool {
        self.is_finished()
            && self.events_settled
            && self.request_seen_to.is_some()
            && !self.awaits_worker
            && (self.letter_settled || !self.concerns_letter())
    }

    /// Notes the findings of a sweep, after `repairs` were made.
    pub(super) fn settle(&mut self, facts: &Facts, repairs: &[Repair], now: Timestamp) {
        let published = |repair: &Repair| {
            matches!(repair, Repair::QueuedEvent | Repair::StartedEvent | Repair::FinishedEvent)
        };
        if facts.told.is_some() {
            let missing = repairs.iter().any(published);
            // Checked again until they have arrived.
            self.event_tries += u8::from(missing);
            self.events_settled = !missing || self.event_tries >= MAX_EVENT_TRIES;
            if self.events_settled && missing {
                tracing::warn!(
                    build = %self.build,
                    "events of a build do not reach the projection"
                );
            }
        }
        self.letter_settled |=
            repairs.contains(&Repair::Bury) || repairs.contains(&Repair::DropLetter);
        if let Some(in_queue) = facts.in_queue {
            self.request_seen_to = Some(now);
            self.awaits_worker = in_queue && self.is_finished() && self.leaves_tags;
        }
    }
}

/// The part of a [`Build`](slipway_proto::Build) that matters here. The leader reads every change
/// of every record, several for each build, and most of a record is request and image.
#[derive(Deserialize)]
struct Outline {
    request: RequestOutline,
    accepted_at: Timestamp,
    order: u64,
    replays: u32,
    replayed_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    tagging: bool,
    last_worker: Option<IgnoredAny>,
    state: StateOutline,
}

#[derive(Deserialize)]
struct RequestOutline {
    build: BuildId,
    project: ProjectName,
    pool: PoolName,
    priority: Priority,
    queue_timeout_s: u32,
    supersede_key: Option<Box<str>>,
}

#[derive(Deserialize)]
struct StateOutline {
    epoch: Epoch,
    phase: PhaseOutline,
}

#[derive(Deserialize)]
struct PhaseOutline {
    phase: StateName,
    not_before: Option<Timestamp>,
    #[serde(default)]
    dead: bool,
}

fn after(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// Returns the repairs of a build, in order.
pub(super) fn decide(view: &View, facts: &Facts, now: Timestamp) -> Vec<Repair> {
    if view.waited_too_long(now) {
        return vec![Repair::TimeOut];
    }
    if let Some(later) = facts.superseded_by {
        return vec![Repair::Supersede(later)];
    }
    let mut repairs = Vec::new();
    // Before the request, because a worker is faster and subscribers must see `queued` first.
    if let Some(told) = facts.told {
        events(view, told, &mut repairs);
    }
    // A worker may have acknowledged the request of a finished build since the last look.
    let may_wait = !view.is_finished() || facts.in_queue == Some(true);
    match facts.in_queue {
        _ if facts.stranded && view.is_overdue(now) && may_wait => repairs.push(Repair::Requeue),
        Some(false) if !view.is_finished() => repairs.push(Repair::Enqueue),
        _ => {}
    }
    let removed = view.is_finished() && facts.in_queue == Some(true) && !view.leaves_tags;
    // Once the letter exists, somebody may replay the build, and then nobody publishes its outcome.
    let is_told = view.events_settled || facts.told.is_some();
    match (view.dead && is_told, view.asks_for_letter(now) && !view.dead) {
        (true, _) if view.asks_for_letter(now) || removed => repairs.push(Repair::Bury),
        (false, true) => repairs.push(Repair::DropLetter),
        _ => {}
    }
    if removed {
        repairs.push(Repair::RemoveRequest);
    }
    repairs
}

fn events(view: &View, told: Option<ProjectedState>, repairs: &mut Vec<Repair>) {
    let known = told.filter(|told| told.replays >= view.replays);
    if known.is_none() {
        repairs.push(Repair::QueuedEvent);
    }
    if !view.is_finished() {
        // Its worker, or the next one, publishes the rest.
        return;
    }
    let epoch = told.map_or(0, |told| told.epoch);
    if view.started && epoch < view.epoch {
        repairs.push(Repair::StartedEvent);
    }
    if known.is_none_or(|told| !told.state.is_finished()) {
        repairs.push(Repair::FinishedEvent);
    }
}

#[cfg(test)]
mod tests;
