// SPDX-License-Identifier: Apache-2.0

//! The state machine of a build: one pure function that dispatcher, worker, projection and tests
//! share.
//!
//! ```text
//!            Claim                    Publish                 Succeed
//!  Queued ──────────► Running(stage) ─────────► Publishing ─────────► Succeeded
//!    ▲  ▲               │  │   ▲                   │ │
//!    │  └── Retry ──────┘  │   └── Claim (lease lost, epoch + 1)
//!    └───── GiveBack ──────┘                       │
//!  any unfinished ── Fail ──► Failed               │
//!  Queued, Running ── Cancel ──► Cancelled         └── Retry, GiveBack, Fail as from Running
//!  Failed ── Replay ──► Queued (epoch + 1, attempts counted from 0)
//! ```
//!
//! After a crash: JetStream delivers a build in `Running` or `Publishing` again when its worker's
//! lease ends, and the next worker claims it under the next **epoch**. Every change by a worker
//! names the epoch it holds. A change of an older epoch is refused, so a worker that was only
//! asleep cannot undo what its successor did.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::outcome::Image;
use crate::{Failure, Timestamp, WorkerId};

/// Counts the claims of a build. It is the fencing token of everything a worker does to the build.
pub type Epoch = u64;

/// The stages of an attempt, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The artifact is read from the store and its digest checked.
    Fetch,
    /// The base image's manifest and config are resolved.
    Resolve,
    /// Layers, config and manifest are made.
    Assemble,
    /// Blobs, manifest and tags are written to the registry.
    Push,
}

impl Stage {
    /// Returns the stage's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Resolve => "resolve",
            Self::Assemble => "assemble",
            Self::Push => "push",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The live truth of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildState {
    /// How often the build was claimed; 0 before the first claim.
    pub epoch: Epoch,
    /// The number of the current or last attempt. An attempt that ended by a fault of the
    /// infrastructure is not charged, and its number is used again.
    pub attempt: u32,
    /// How many attempts in a row failed, charged or not, since the build was accepted or replayed.
    /// The delay before the next one grows with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Where the build is.
    pub phase: Phase,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Where a build is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for a worker.
    Queued {
        /// For a retry: the time before which it should not start.
        not_before: Option<Timestamp>,
    },
    /// A worker holds its lease and works on it.
    Running {
        /// That worker.
        worker: WorkerId,
        /// What it does.
        stage: Stage,
    },
    /// Its blobs and manifest are in the registry; its tags are being written.
    Publishing {
        /// The worker that writes them.
        worker: WorkerId,
    },
    /// It ended with an image.
    Succeeded {
        /// That image.
        image: Box<Image>,
    },
    /// It ended without one.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether its request belongs into the dead-letter stream, from where it can be replayed:
        /// its attempts were used up, or the request itself was corrupt.
        dead: bool,
    },
    /// It was cancelled.
    Cancelled {
        /// Who or what cancelled it.
        message: String,
    },
}

/// Something that happened to a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A worker takes the build under a new epoch.
    Claim {
        /// The epoch it takes; must be newer than the build's.
        epoch: Epoch,
        /// The worker.
        worker: WorkerId,
    },
    /// The worker enters a stage.
    Enter {
        /// The epoch the worker holds.
        epoch: Epoch,
        /// The stage it enters.
        stage: Stage,
    },
    /// The worker is about to write tags.
    Publish {
        /// The epoch the worker holds.
        epoch: Epoch,
    },
    /// The image is published.
    Succeed {
        /// The epoch the worker holds.
        epoch: Epoch,
        /// What it made.
        image: Box<Image>,
    },
    /// The build fails for good.
    Fail {
        /// The build's epoch.
        epoch: Epoch,
        /// Why.
        failure: Failure,
        /// Whether the request belongs in the dead-letter stream.
        dead: bool,
    },
    /// The attempt failed for a reason that may pass. It is charged.
    Retry {
        /// The epoch the worker holds.
        epoch: Epoch,
        /// When to try again.
        not_before: Timestamp,
        /// Why it failed.
        failure: Failure,
    },
    /// The attempt ended through no fault of the build. It is not charged.
    GiveBack {
        /// The epoch the worker holds.
        epoch: Epoch,
        /// When to try again, if not at once.
        not_before: Option<Timestamp>,
        /// Why it ended, if there was a reason other than that its worker stopped.
        failure: Option<Failure>,
    },
    /// Somebody cancels the build.
    Cancel {
        /// Who or what, in a sentence.
        message: String,
    },
    /// Somebody replays a failed build under a new epoch, with all its attempts. This is the only
    /// way out of an outcome, and only people take it.
    Replay {
        /// The next epoch.
        epoch: Epoch,
    },
    /// Somebody drops the dead letter of a failed build.
    DropLetter,
}

/// Why a change does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The build has its one outcome already.
    #[error("the build is already finished")]
    Finished,
    /// The build was claimed under a newer epoch.
    #[error("epoch {offered} is stale: the build is at epoch {current}")]
    StaleEpoch {
        /// The epoch of the change.
        offered: Epoch,
        /// The build's epoch.
        current: Epoch,
    },
    /// The change needs a worker that holds the build.
    #[error("no worker holds the build")]
    NotHeld,
    /// The tags are being written; it is too late to cancel the build.
    #[error("the image is already being published")]
    TooLate,
    /// Only a failed build can be replayed, or have its dead letter dropped.
    #[error("the build has not failed")]
    NotFailed,
}

impl BuildState {
    /// Returns the state of a build that was just accepted.
    #[must_use]
    pub fn accepted() -> Self {
        let phase = Phase::Queued { not_before: None };
        Self { epoch: 0, attempt: 0, failures: 0, phase }
    }

    /// Returns whether the build has its outcome.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(
            self.phase,
            Phase::Succeeded { .. } | Phase::Failed { .. } | Phase::Cancelled { .. }
        )
    }

    /// Returns the worker that holds the build, if one does.
    #[must_use]
    pub fn holder(&self) -> Option<&WorkerId> {
        match &self.phase {
            Phase::Running { worker, .. } | Phase::Publishing { worker } => Some(worker),
            _ => None,
        }
    }

    /// Applies a change and returns the next state.
    ///
    /// # Errors
    ///
    /// Returns a [`Refusal`] when the change does not apply; the state is then as it was.
    pub fn apply(&self, change: &Change) -> Result<Self, Refusal> {
        if let Change::Replay { .. } | Change::DropLetter = change {
            return self.revive(change);
        }
        if self.is_finished() {
            return Err(Refusal::Finished);
        }
        let next = match change {
            Change::Claim { epoch, worker } => {
                if *epoch <= self.epoch {
                    return Err(Refusal::StaleEpoch { offered: *epoch, current: self.epoch });
                }
                Self {
                    epoch: *epoch,
                    attempt: self.attempt + 1,
                    failures: self.failures,
                    phase: Phase::Running { worker: worker.clone(), stage: Stage::Fetch },
                }
            }
            Change::Enter { epoch, stage } => match &self.phase {
                Phase::Running { worker, .. } => {
                    self.fence(*epoch)?;
                    self.to(Phase::Running { worker: worker.clone(), stage: *stage })
                }
                _ => return self.not_held(*epoch),
            },
            Change::Publish { epoch } => match &self.phase {
                Phase::Running { worker, .. } => {
                    self.fence(*epoch)?;
                    self.to(Phase::Publishing { worker: worker.clone() })
                }
                _ => return self.not_held(*epoch),
            },
            Change::Succeed { epoch, image } => match &self.phase {
                Phase::Publishing { .. } => {
                    self.fence(*epoch)?;
                    self.to(Phase::Succeeded { image: image.clone() })
                }
                _ => return self.not_held(*epoch),
            },
            Change::Fail { epoch, failure, dead } => {
                self.fence(*epoch)?;
                self.to(Phase::Failed { failure: failure.clone(), dead: *dead })
            }
            Change::Retry { epoch, not_before, .. } => {
                self.held(*epoch)?;
                let failures = self.failures.saturating_add(1);
                Self { failures, ..self.to(Phase::Queued { not_before: Some(*not_before) }) }
            }
            Change::GiveBack { epoch, not_before, failure } => {
                self.held(*epoch)?;
                let attempt = self.attempt.saturating_sub(1);
                let failures = self.failures.saturating_add(u32::from(failure.is_some()));
                let queued = self.to(Phase::Queued { not_before: *not_before });
                Self { attempt, failures, ..queued }
            }
            Change::Cancel { message } => match &self.phase {
                Phase::Publishing { .. } => return Err(Refusal::TooLate),
                _ => self.to(Phase::Cancelled { message: message.clone() }),
            },
            Change::Replay { .. } | Change::DropLetter => return self.revive(change),
        };
        Ok(next)
    }

    /// The changes that apply to a failed build alone.
    fn revive(&self, change: &Change) -> Result<Self, Refusal> {
        let Phase::Failed { failure, .. } = &self.phase else { return Err(Refusal::NotFailed) };
        match change {
            Change::Replay { epoch } if *epoch <= self.epoch => {
                Err(Refusal::StaleEpoch { offered: *epoch, current: self.epoch })
            }
            Change::Replay { epoch } => Ok(Self { epoch: *epoch, ..Self::accepted() }),
            _ => Ok(self.to(Phase::Failed { failure: failure.clone(), dead: false })),
        }
    }

    fn to(&self, phase: Phase) -> Self {
        Self { phase, ..*self }
    }

    fn fence(&self, offered: Epoch) -> Result<(), Refusal> {
        if offered == self.epoch {
            return Ok(());
        }
        Err(Refusal::StaleEpoch { offered, current: self.epoch })
    }

    fn held(&self, offered: Epoch) -> Result<(), Refusal> {
        self.fence(offered)?;
        self.holder().map(|_| ()).ok_or(Refusal::NotHeld)
    }

    fn not_held(&self, offered: Epoch) -> Result<Self, Refusal> {
        self.fence(offered)?;
        Err(Refusal::NotHeld)
    }
}

#[cfg(test)]
mod tests;
