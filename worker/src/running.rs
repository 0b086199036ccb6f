// SPDX-License-Identifier: Apache-2.0

//! The builds that a worker runs at this moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_proto::BuildId;

/// The set of running builds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeSet<BuildId>>>);

/// A build's place in the set; given up when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    running: Running,
    build: BuildId,
}

impl Running {
    /// Enters a build; `None` if it runs already.
    #[must_use]
    pub(crate) fn register(&self, build: BuildId) -> Option<Registered> {
        let new = self.set().insert(build);
        new.then(|| Registered { running: self.clone(), build })
    }

    /// Returns the builds that run now.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<BuildId> {
        self.set().iter().copied().collect()
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<BuildId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.set().remove(&self.build);
    }
}
