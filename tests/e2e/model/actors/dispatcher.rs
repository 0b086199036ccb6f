// SPDX-License-Identifier: Apache-2.0

//! A dispatcher: it accepts, cancels, replays and drops, and sweeps as the reconciler.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipway_proto::{Build, BuildId, Digest, Timestamp};
use slipway_queue::protocol::accept::{Accepted, Submitted};
use slipway_queue::protocol::cancel::{Scope, cancel};
use slipway_queue::protocol::reconcile::{Memory, Sweep};
use slipway_queue::protocol::replay::{drop_letter, replay};
use slipway_queue::protocol::{Operations, accept};
use slipway_queue::record::{Seen, Stored};

use super::operations::{Actor, Sends};
use crate::model::gate::{Choice, Gate, Task};
use crate::model::server::Server;
use crate::model::world::{World, project};

/// For a sweep it is so much later than for everybody else: it waits for nobody who is in the middle
/// of something.
const IMPATIENCE: Duration = Duration::from_secs(60);

/// What a dispatcher is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// A client submits the build, again or for the first time.
    Submit,
    /// A client submits something else under the build's key.
    SubmitOther,
    /// A client cancels it.
    Cancel,
    /// A client has its dead letter replayed.
    Replay,
    /// A client drops its dead letter.
    Drop,
}

/// A dispatcher, which does one thing at a time.
#[derive(Default)]
pub(crate) struct Dispatcher {
    gate: Gate,
    task: Option<Task>,
}

impl Dispatcher {
    /// Returns whether it does nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.task.is_none()
    }

    /// Begins what it is asked for, unless it does something already.
    pub(crate) async fn begin<S: Server>(
        &mut self,
        world: &Arc<World<S>>,
        call: Call,
        number: usize,
    ) {
        let actor = Actor::new(world, &self.gate, Sends::Later);
        let id = world.id(number);
        match call {
            Call::Submit => self.start(submit(actor, number, digest(id, "as always"))).await,
            Call::SubmitOther => self.start(submit(actor, number, digest(id, "other"))).await,
            Call::Cancel => self.start(call_off(actor, id)).await,
            Call::Replay => self.start(use_letter(actor, id, true)).await,
            Call::Drop => self.start(use_letter(actor, id, false)).await,
        }
    }

    /// Begins a sweep, unless it does something already.
    pub(crate) async fn begin_sweep<S: Server>(&mut self, world: &Arc<World<S>>) {
        let actor = Actor { ahead: IMPATIENCE, ..Actor::new(world, &self.gate, Sends::Later) };
        self.start(sweep(actor)).await;
    }

    async fn start(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if self.task.is_some() {
            return;
        }
        let mut task: Task = Box::pin(work);
        if !self.gate.settle(&mut task).await {
            self.task = Some(task);
        }
    }

    /// Has it do its next operation, if it has one.
    pub(crate) async fn step(&mut self) {
        let Some(task) = &mut self.task else { return };
        if self.gate.step(task, Choice::Well).await {
            self.task = None;
        }
    }

    /// Forgets everything.
    pub(crate) fn crash(&mut self) {
        *self = Self::default();
    }
}

fn digest(build: BuildId, document: &str) -> Digest {
    Digest::of(format!("{build} {document}").as_bytes())
}

async fn submit<S: Server>(actor: Actor<S>, number: usize, digest: Digest) {
    let request = actor.world.requests[number].clone();
    let (project, id) = (project(), request.build);
    let (build, has_key, traceparent) = (id, true, None);
    let submitted = Submitted { project: &project, build, has_key, digest, traceparent };
    let accepted_at: Timestamp = actor.now();
    let creating = actor.begin_create(Build::accepted(request, digest, accepted_at)).await;
    let accepted: Result<Accepted<_>, accept::AcceptError> =
        submitted.accept(&actor, creating, || true, async { true }).await;
    let Ok(accepted) = accepted else { return };
    actor.world.history().answered.entry(id).or_default().insert(digest);
    // Behind the answer.
    if let Some(mut queued) = accepted.queued {
        let _left_to_the_reconciler = actor.stored(&mut queued).await;
    }
}

async fn call_off<S: Server>(actor: Actor<S>, id: BuildId) {
    let message = "cancelled on request";
    let _answered = cancel(&actor, &actor, &project(), id, message, Scope::Unfinished).await;
}

async fn use_letter<S: Server>(actor: Actor<S>, id: BuildId, replays: bool) {
    let project = project();
    let Ok(Some(letter)) = actor.letter(&project, &id.to_string()).await else { return };
    if replays {
        let _answered = replay(&actor, &actor, &project, &letter).await;
    } else {
        let _answered = drop_letter(&actor, &project, &letter).await;
    }
}

async fn sweep<S: Server>(actor: Actor<S>) {
    let memory = Mutex::new(Memory::default());
    read_records(&actor, &memory).await;
    let (operations, projection, memory) = (&actor, &actor, &memory);
    let sweep = Sweep { operations, projection, memory, may_act: || true, asked: true };
    let _counted = sweep.run().await;
}

/// Reads all records at once, as the stream of their changes brings them.
async fn read_records<S: Server>(actor: &Actor<S>, memory: &Mutex<Memory>) {
    let _turn = actor.gate.turn().await;
    let world = &actor.world;
    let now = world.now();
    for request in &world.requests {
        let found = world.server.record(&request.project, request.build).await;
        let Ok(Some(record)) = found else { continue };
        let document = world.document(&record);
        let seen = Seen::Record(Stored { document, revision: record.revision });
        memory.lock().expect("nobody panics with it").note(seen, now);
    }
}
