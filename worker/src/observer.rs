// SPDX-License-Identifier: Apache-2.0

//! The other side of a build: whoever follows it as it goes.
//!
//! An attempt of the queue publishes events and writes a log; `slipway build --local` prints lines.
//! The pipeline knows neither.

use slipway_proto::Stage;

use crate::liveness::Liveness;

/// Follows a build as it goes.
pub trait Observer: Send + Sync {
    /// A stage begins.
    fn stage(&self, stage: Stage);

    /// Takes a line for people to read.
    fn line(&self, line: &str);

    /// Returns the build's signs of life.
    fn liveness(&self) -> Liveness;

    /// Returns whether the build still belongs to this process. Asked before anything that cannot be
    /// taken back. After a `false`, the result of the build is ignored.
    fn holds(&self) -> bool {
        true
    }
}

/// Passes lines on to a function, and ignores everything else.
pub(crate) struct Lines<F>(pub(crate) F);

impl<F: Fn(&str) + Send + Sync> Observer for Lines<F> {
    fn stage(&self, _stage: Stage) {}

    fn line(&self, line: &str) {
        (self.0)(line);
    }

    fn liveness(&self) -> Liveness {
        Liveness::default()
    }
}
