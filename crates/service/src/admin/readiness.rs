// SPDX-License-Identifier: Apache-2.0

//! Whether a program has started: a latch that is released once and cannot go back.

use std::sync::{Arc, Weak};

/// Tells whether all latches are released.
#[derive(Debug, Clone)]
pub struct Readiness(Weak<()>);

/// Something that has to be done before the program is ready. Dropping it says that it is done; a
/// part that takes long to start holds a clone of its own.
#[derive(Debug, Clone)]
pub struct Latch {
    _held: Arc<()>,
}

impl Readiness {
    /// Makes a readiness with its first latch.
    #[must_use]
    pub fn new() -> (Self, Latch) {
        let held = Arc::new(());
        (Self(Arc::downgrade(&held)), Latch { _held: held })
    }

    /// Returns whether the program has started.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.upgrade().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_ready_when_its_last_latch_is_released() {
        let (readiness, first) = Readiness::new();
        let second = first.clone();
        assert!(!readiness.is_ready());
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }
}
