// SPDX-License-Identifier: Apache-2.0

//! One run: the actors on their world, and what may happen to them.

use std::sync::Arc;

use super::actors::{Dispatcher, Worker};
use super::server::Server;
use super::world::{BUILDS, World};

/// How many dispatchers and workers there are.
pub(crate) const DISPATCHERS: usize = 2;
pub(crate) const WORKERS: usize = 3;

/// What may happen to the actors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Dispatchers crash.
    pub(crate) dispatchers_crash: bool,
    /// Dead letters are replayed.
    pub(crate) replays: bool,
    /// The queue is too small for all builds.
    pub(crate) queue_fills: bool,
    /// A worker that slept beyond its lease writes a tag and dies before it looks again. Nothing
    /// promises what the tag is then.
    pub(crate) sleepers_die: bool,
    /// There is a reconciler, which is no fault.
    pub(crate) reconciles: bool,
}

impl Faults {
    /// Everything that the promises cover.
    pub(crate) fn promised() -> Self {
        Self {
            dispatchers_crash: true,
            replays: true,
            queue_fills: true,
            sleepers_die: false,
            reconciles: true,
        }
    }

    /// Returns how many requests the queue holds.
    pub(crate) fn capacity(self) -> usize {
        if self.queue_fills { BUILDS - 1 } else { BUILDS }
    }
}

/// One run.
pub(crate) struct Scene<S: Server> {
    pub(crate) world: Arc<World<S>>,
    pub(crate) faults: Faults,
    pub(crate) dispatchers: [Dispatcher; DISPATCHERS],
    pub(crate) workers: [Worker; WORKERS],
}

impl<S: Server> Scene<S> {
    /// Begins with nothing but the actors.
    pub(crate) fn new(server: S, faults: Faults) -> Self {
        Self {
            world: Arc::new(World::new(server)),
            faults,
            dispatchers: Default::default(),
            workers: Default::default(),
        }
    }
}
