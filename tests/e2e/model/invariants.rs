// SPDX-License-Identifier: Apache-2.0

//! What must hold when everything has come to rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use slipway_proto::event::{Event, EventBody};
use slipway_proto::{BuildId, Phase, Reference};

use super::actors::projected;
use super::scene::Scene;
use super::world::Server;

/// What was found at the end of a run.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The promises that were broken.
    pub(crate) broken: Vec<String>,
    /// How many tags belong to a build that entered itself as their owner and did not succeed in
    /// the end: of these nothing is promised.
    pub(crate) left_tags: usize,
    /// How many events were announced by an attempt that had been overtaken.
    pub(crate) late_events: usize,
    /// How many builds have their outcome.
    pub(crate) finished: usize,
}

impl<S: Server> Scene<S> {
    /// Checks a run that has come to rest.
    pub(crate) async fn check(&mut self) -> Findings {
        let mut broken = std::mem::take(&mut self.history.broken);
        let events = self.server.events().await;
        for number in 0..self.requests.len() {
            let id = self.id(number);
            if let Err(what) = self.check_build(id, &events).await {
                broken.push(format!("build {number} ({id}): {what}"));
            }
        }
        if !self.server.in_queue().await.is_empty() {
            broken.push("the queue is not empty".to_owned());
        }
        let references: BTreeSet<Reference> =
            self.requests.iter().map(|request| request.image().clone()).collect();
        let mut left_tags = 0;
        for reference in &references {
            match self.check_tag(reference).await {
                Ok(promised) => left_tags += usize::from(!promised),
                Err(what) => broken.push(what),
            }
        }
        let finished = self.history.outcomes.len();
        Findings { broken, left_tags, late_events: self.history.late_events.len(), finished }
    }

    /// Reads everything that there is, for a server that compares what it reads.
    pub(crate) async fn compare_everything(&mut self) {
        self.server.events().await;
        self.server.in_queue().await;
        for number in 0..self.requests.len() {
            let reference = self.requests[number].image().clone();
            self.server.read(self.id(number)).await;
            self.server.letter(self.id(number)).await;
            self.server.owner(&reference).await;
        }
    }

    async fn check_build(&mut self, id: BuildId, events: &[Arc<Event>]) -> Result<(), String> {
        let Some(record) = self.server.read(id).await else {
            let answered = self.history.answered.contains(&id);
            return if answered { Err("lost".to_owned()) } else { Ok(()) };
        };
        let build = &record.build;
        if !build.state.is_finished() {
            return Err(format!("stuck: {:?}", build.state));
        }
        let outcomes = self.history.outcomes.get(&id).cloned().unwrap_or_default();
        let replays: Vec<u32> = outcomes.iter().map(|(replays, _)| *replays).collect();
        if replays != (0..=build.replays).collect::<Vec<_>>() {
            return Err(format!("not one outcome for each replay: {outcomes:?}"));
        }
        self.check_events(id, &outcomes, events)?;
        let projected = projected(events, id).ok_or("no event made it known")?;
        let same = std::mem::discriminant(&projected.state.phase)
            == std::mem::discriminant(&build.state.phase);
        if !same || projected.replays != build.replays {
            let (told, is) = (&projected.state, &build.state);
            return Err(format!("the events tell of {told:?}, and it is {is:?}"));
        }
        let letter = self.server.letter(id).await;
        if letter.is_some() != build.is_dead() {
            return Err(format!("letter {letter:?} of {:?}", build.state));
        }
        self.check_cancelled(id, &build.state.phase, build.state.epoch)
    }

    /// Each outcome was told once, and after everything that came before it.
    fn check_events(
        &self,
        id: BuildId,
        outcomes: &[(u32, u64)],
        events: &[Arc<Event>],
    ) -> Result<(), String> {
        let of_build = || events.iter().filter(move |event| event.subject == id);
        let at = |wanted: &str| of_build().position(|event| event.id == wanted);
        let mut finished: BTreeSet<&str> = BTreeSet::new();
        for event in of_build() {
            if matches!(event.body, EventBody::Finished(_)) {
                finished.insert(&event.id);
            }
        }
        if finished.len() != outcomes.len() {
            return Err(format!("{outcomes:?} were told as {finished:?}"));
        }
        let mut earlier = 0;
        for (replays, epoch) in outcomes {
            let queued = at(&format!("{id}:{replays}:build.queued")).ok_or("no build.queued")?;
            let end = at(&format!("{id}:{epoch}:build.finished")).ok_or("no build.finished")?;
            if queued > end {
                return Err(format!("finished before it was queued ({replays} replays)"));
            }
            for (position, event) in of_build().enumerate() {
                let EventBody::Started(started) = &event.body else { continue };
                let late = self.history.late_events.contains(&event.id);
                let here = started.epoch > earlier && started.epoch <= *epoch;
                if here && !late && !(queued < position && position < end) {
                    return Err(format!("claim {} was not told in its turn", started.epoch));
                }
            }
            earlier = *epoch;
        }
        Ok(())
    }

    fn check_cancelled(&self, id: BuildId, phase: &Phase, epoch: u64) -> Result<(), String> {
        let unclaimed = epoch == 0 && matches!(phase, Phase::Cancelled { .. });
        let wrote = self.history.tag_writes.iter().any(|write| write.writer == id);
        if unclaimed && wrote {
            return Err("cancelled before it was claimed, and has written a tag".to_owned());
        }
        Ok(())
    }

    /// The tag is that of the last submitted build that succeeded. Returns whether that was
    /// promised.
    async fn check_tag(&mut self, reference: &Reference) -> Result<bool, String> {
        let succeeded = |scene: &Self, id: &BuildId| {
            let last = scene.history.last.get(id);
            last.is_some_and(|last| matches!(last.phase, Phase::Succeeded { .. }))
        };
        let of_tag = self.requests.iter().filter(|request| request.image() == reference);
        let ids = of_tag.map(|request| request.build).filter(|id| succeeded(self, id));
        let Some(last) = ids.max_by_key(|id| self.history.orders.get(id)) else { return Ok(true) };
        let order = self.history.orders.get(&last).copied().unwrap_or_default();
        let shown = self.registry.get(reference).copied();
        let owner = self.server.owner(reference).await;
        if owner.as_ref().is_some_and(|owner| owner.order > order) {
            return Ok(false);
        }
        if shown == Some(last) {
            return Ok(true);
        }
        let wrote: Vec<_> = self.history.tag_writes.iter().map(|write| write.image).collect();
        Err(format!("{reference} shows {shown:?} and not {last}; it was written as {wrote:?}"))
    }
}
