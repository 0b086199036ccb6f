// SPDX-License-Identifier: Apache-2.0

//! The builds that a worker runs at this moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_proto::BuildId;
use tokio::sync::Notify;

/// The running builds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<BTreeMap<BuildId, Arc<Notify>>>>);

/// A build's entry, removed when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    running: Running,
    build: BuildId,
    notice: Arc<Notify>,
}

impl Running {
    /// Enters a build; `None` if it is already running.
    #[must_use]
    pub(crate) fn register(&self, build: BuildId) -> Option<Registered> {
        let notice = Arc::new(Notify::new());
        match self.builds().entry(build) {
            std::collections::btree_map::Entry::Occupied(_) => return None,
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Arc::clone(&notice));
            }
        }
        Some(Registered { running: self.clone(), build, notice })
    }

    /// Returns the builds that run now.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<BuildId> {
        self.builds().keys().copied().collect()
    }

    /// Signals the attempt of a build to read its record.
    pub(crate) fn notify(&self, build: BuildId) {
        if let Some(notice) = self.builds().get(&build) {
            notice.notify_one();
        }
    }

    fn builds(&self) -> MutexGuard<'_, BTreeMap<BuildId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// Resolves when the build's record should be read, also if the signal came before.
    pub(crate) fn notice(&self) -> Arc<Notify> {
        Arc::clone(&self.notice)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.running.builds().remove(&self.build);
    }
}
