// SPDX-License-Identifier: Apache-2.0

//! What must hold when everything has come to rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use slipway_proto::event::{Event, EventBody};
use slipway_proto::{BuildId, Phase, Reference};

use super::history::Ended;
use super::scene::Scene;
use super::server::Server;
use super::world::{project, projected};

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
        let mut broken = std::mem::take(&mut self.world.history().broken);
        let events = self.world.server.events().await;
        for number in 0..self.world.requests.len() {
            let id = self.world.id(number);
            if let Err(what) = self.check_build(id, &events).await {
                broken.push(format!("build {number} ({id}): {what}"));
            }
        }
        let in_queue = self.world.server.all_in_queue().await.expect("it answers");
        if !in_queue.is_empty() {
            broken.push("the queue is not empty".to_owned());
        }
        let references: BTreeSet<Reference> =
            self.world.requests.iter().map(|request| request.image().clone()).collect();
        let mut left_tags = 0;
        for reference in &references {
            match self.check_tag(reference).await {
                Ok(promised) => left_tags += usize::from(!promised),
                Err(what) => broken.push(what),
            }
        }
        let history = self.world.history();
        let (finished, late_events) = (history.outcomes.len(), history.late_events.len());
        Findings { broken, left_tags, late_events, finished }
    }

    /// Reads everything that there is, for a server that compares what it reads.
    pub(crate) async fn compare_everything(&mut self) {
        let server = &self.world.server;
        server.events().await;
        server.all_in_queue().await.expect("it answers");
        for request in &self.world.requests {
            let (project, id) = (&request.project, request.build);
            server.record(project, id).await.expect("it answers");
            server.letter(project, &id.to_string()).await.expect("it answers");
            server.tag_owner(request.image()).await.expect("it answers");
        }
    }

    async fn check_build(&mut self, id: BuildId, events: &[Arc<Event>]) -> Result<(), String> {
        let server = &self.world.server;
        let answered = self.world.history().answered.get(&id).cloned().unwrap_or_default();
        if answered.len() > 1 {
            return Err("one key names two submissions".to_owned());
        }
        let Some(record) = server.record(&project(), id).await.expect("it answers") else {
            return if answered.is_empty() { Ok(()) } else { Err("lost".to_owned()) };
        };
        let build = &record.build;
        if answered.iter().any(|submission| *submission != build.submission) {
            return Err("another submission was accepted than is built".to_owned());
        }
        if !build.state.is_finished() {
            return Err(format!("stuck: {:?}", build.state));
        }
        let outcomes = self.world.history().outcomes.get(&id).cloned().unwrap_or_default();
        let replays: Vec<u32> = outcomes.iter().map(|ended| ended.replays).collect();
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
        let letter = server.letter(&project(), &id.to_string()).await.expect("it answers");
        if letter.is_some() != build.is_dead() {
            return Err(format!("letter {letter:?} of {:?}", build.state));
        }
        self.check_cancelled(id, &build.state.phase, build.state.epoch)
    }

    /// Each outcome was told once, and after everything that came before it.
    fn check_events(
        &self,
        id: BuildId,
        outcomes: &[Ended],
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
        for Ended { replays, epoch, starts } in outcomes {
            let queued = at(&format!("{id}:{replays}:build.queued")).ok_or("no build.queued")?;
            let end = at(&format!("{id}:{epoch}:build.finished")).ok_or("no build.finished")?;
            if queued > end {
                return Err(format!("finished before it was queued ({replays} replays)"));
            }
            let started = at(&format!("{id}:{epoch}:build.started"));
            if *starts && started.is_none_or(|started| started > end) {
                return Err(format!("claim {epoch} was not told before its outcome"));
            }
            for (position, event) in of_build().enumerate() {
                let EventBody::Started(started) = &event.body else { continue };
                let late = self.world.history().late_events.contains(&event.id);
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
        let wrote = self.world.history().tag_writes.iter().any(|write| write.writer == id);
        if unclaimed && wrote {
            return Err("cancelled before it was claimed, and has written a tag".to_owned());
        }
        Ok(())
    }

    /// The tag is that of the last submitted build that succeeded. Returns whether that was
    /// promised.
    async fn check_tag(&mut self, reference: &Reference) -> Result<bool, String> {
        let (last, order, wrote) = {
            let history = self.world.history();
            let succeeded = |id: &BuildId| {
                let last = history.last.get(id);
                last.is_some_and(|last| matches!(last.phase, Phase::Succeeded { .. }))
            };
            let of_tag = self.world.requests.iter().filter(|request| request.image() == reference);
            let ids = of_tag.map(|request| request.build).filter(succeeded);
            let Some(last) = ids.max_by_key(|id| history.orders.get(id)) else { return Ok(true) };
            let order = history.orders.get(&last).copied().unwrap_or_default();
            let wrote: Vec<_> = history.tag_writes.iter().map(|write| write.image).collect();
            (last, order, wrote)
        };
        let owner = self.world.server.tag_owner(reference).await.expect("it answers");
        if owner.is_some_and(|entry| entry.owner.order > order) {
            return Ok(false);
        }
        let shown = self.world.shown(reference);
        if shown == Some(last) {
            return Ok(true);
        }
        Err(format!("{reference} shows {shown:?} and not {last}; it was written as {wrote:?}"))
    }
}
