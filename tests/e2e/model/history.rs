// SPDX-License-Identifier: Apache-2.0

//! What happened in a run, as nobody inside can see it.

use std::collections::{BTreeMap, BTreeSet};

use slipway_proto::event::{Event, EventBody};
use slipway_proto::state::Epoch;
use slipway_proto::{Build, BuildId, Digest, Phase};
use slipway_queue::Record;

/// What was seen of a build's record when it was last written.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) epoch: Epoch,
    pub(crate) replays: u32,
}

impl Seen {
    fn of(build: &Build) -> Self {
        let state = &build.state;
        Self { phase: state.phase.clone(), epoch: state.epoch, replays: build.replays }
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(
            self.phase,
            Phase::Succeeded { .. } | Phase::Failed { .. } | Phase::Cancelled { .. }
        )
    }
}

/// A tag that was written.
#[derive(Debug, Clone)]
pub(crate) struct TagWrite {
    /// Whose image the tag was pointed at.
    pub(crate) image: BuildId,
    /// Who wrote.
    pub(crate) writer: BuildId,
}

/// An outcome that a build got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// How often it had been replayed.
    pub(crate) replays: u32,
    /// The claim.
    pub(crate) epoch: Epoch,
    /// Whether the claim was made so shortly before that its start must have been told.
    pub(crate) starts: bool,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The submissions of each build that were answered as accepted.
    pub(crate) answered: BTreeMap<BuildId, BTreeSet<Digest>>,
    /// The last record of each build.
    pub(crate) last: BTreeMap<BuildId, Seen>,
    /// The outcomes of each build.
    pub(crate) outcomes: BTreeMap<BuildId, Vec<Ended>>,
    /// The places of builds in the order of acceptance.
    pub(crate) orders: BTreeMap<BuildId, u64>,
    /// The builds whose attempts have written their own tag, and how often they had been replayed.
    tagged: BTreeSet<(BuildId, u32)>,
    /// All writes of tags.
    pub(crate) tag_writes: Vec<TagWrite>,
    /// How often the window of ids has passed.
    pub(crate) windows: u64,
    /// How often it had when a build was claimed.
    claims: BTreeMap<(BuildId, Epoch), u64>,
    /// The outcomes that were published.
    told: BTreeSet<(BuildId, Epoch)>,
    /// Starts that were sent at a claim when others had taken or ended the build, or told its
    /// outcome.
    pub(crate) late_events: BTreeSet<String>,
    /// The sequence of the last event.
    last_event: u64,
    /// Promises that were broken on the way.
    pub(crate) broken: Vec<String>,
    /// Counts what changed anything.
    pub(crate) moves: u64,
}

impl History {
    /// Notes a record that was created.
    pub(crate) fn note_created(&mut self, record: &Record) {
        let id = record.build.request.build;
        self.last.insert(id, Seen::of(&record.build));
        self.orders.insert(id, record.build.order);
        self.moves += 1;
    }

    /// Notes a record that was changed, and whether it may follow the last.
    pub(crate) fn note_changed(&mut self, build: &Build) {
        let id = build.request.build;
        let next = Seen::of(build);
        self.moves += 1;
        let ends = next.is_finished();
        let replay = |last: &Seen| next.replays == last.replays + 1 && !ends;
        let last = self.last.get(&id);
        let claim = matches!(next.phase, Phase::Running { .. });
        if let Some(last) = last {
            let newer = next.epoch > last.epoch || (!claim && next.epoch == last.epoch);
            if !newer {
                self.broken.push(format!("{id}: epoch {} after {}", next.epoch, last.epoch));
            }
            let same = std::mem::discriminant(&next.phase) == std::mem::discriminant(&last.phase);
            if last.is_finished() && !same && !replay(last) {
                self.broken.push(format!("{id}: {:?} after {:?}", next.phase, last.phase));
            }
        }
        let cancelled = matches!(next.phase, Phase::Cancelled { .. });
        if cancelled && self.tagged.contains(&(id, next.replays)) {
            self.broken.push(format!("{id}: it was cancelled after its tag was written"));
        }
        if claim {
            self.claims.insert((id, next.epoch), self.windows);
        }
        let already = last.is_some_and(Seen::is_finished);
        if ends && !already {
            // Of a cancelled build the start may not be told: a worker that finds it cancelled does
            // not know whether its outcome is.
            let recently = self.claims.get(&(id, next.epoch)) == Some(&self.windows);
            let starts = recently && !cancelled;
            let ended = Ended { replays: next.replays, epoch: next.epoch, starts };
            self.outcomes.entry(id).or_default().push(ended);
        }
        self.last.insert(id, next);
    }

    /// Notes an event that was published.
    pub(crate) fn note_event(&mut self, event: &Event, sequence: u64) {
        if sequence > self.last_event {
            self.last_event = sequence;
            self.moves += 1;
        }
        let id = event.subject;
        match &event.body {
            EventBody::Finished(finished) => {
                self.told.insert((id, finished.epoch));
            }
            // Whoever cancels a build and the worker that finds it cancelled may both tell its
            // outcome, and only the first of them its start.
            EventBody::Started(started) if self.told.contains(&(id, started.epoch)) => {
                let last = self.last.get(&id).map(|last| &last.phase);
                if matches!(last, Some(Phase::Cancelled { .. })) {
                    self.late_events.insert(event.id.clone());
                }
            }
            _ => {}
        }
    }

    /// Notes that a worker is about to send that it has started a build, which others may have taken
    /// or ended since it claimed it.
    pub(crate) fn note_start(&mut self, event: &Event) {
        let EventBody::Started(started) = &event.body else { return };
        let id = event.subject;
        let overtaken = self
            .last
            .get(&id)
            .is_some_and(|last| last.epoch != started.epoch || last.is_finished());
        if overtaken || self.told.contains(&(id, started.epoch)) {
            self.late_events.insert(event.id.clone());
        }
    }

    /// Notes that a tag was written.
    pub(crate) fn note_tag(&mut self, image: BuildId, writer: BuildId) {
        self.tag_writes.push(TagWrite { image, writer });
        self.moves += 1;
    }

    /// Notes that an attempt has written its own tag: not of a build that was cancelled while it held
    /// it.
    pub(crate) fn note_own_tag(&mut self, build: &Build) {
        let id = build.request.build;
        self.tagged.insert((id, build.replays));
        let cancelled = self.last.get(&id).is_some_and(|last| {
            matches!(last.phase, Phase::Cancelled { .. }) && last.epoch == build.state.epoch
        });
        if cancelled {
            self.broken.push(format!("{id}: its tag was written after it was cancelled"));
        }
    }
}
