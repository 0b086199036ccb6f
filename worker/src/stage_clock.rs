// SPDX-License-Identifier: Apache-2.0

//! The stopwatch of a build: one stage after the other, and how long each took.

use std::time::Instant;

use slipway_proto::Stage;
use slipway_proto::outcome::StageTime;

use crate::observer::Observer;

/// Measures stages, of which one runs at a time.
#[derive(Debug, Default)]
pub struct StageClock {
    done: Vec<StageTime>,
    current: Option<(Stage, Instant)>,
}

impl StageClock {
    /// Ends the current stage, begins another and announces it.
    pub fn enter(&mut self, stage: Stage, observer: &dyn Observer) {
        self.end();
        self.current = Some((stage, Instant::now()));
        observer.stage(stage);
    }

    fn end(&mut self) {
        if let Some((stage, begun)) = self.current.take() {
            let duration_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            // An image of several platforms runs through them once for each.
            match self.done.iter_mut().find(|done| done.stage == stage) {
                Some(done) => done.duration_us += duration_us,
                None => self.done.push(StageTime { stage, duration_us }),
            }
        }
    }

    /// Ends the last stage and returns all of them in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<StageTime> {
        self.end();
        self.done
    }
}
