// SPDX-License-Identifier: Apache-2.0

//! Finishes what a crash left undone.
//!
//! A sweep compares the records that are at rest with the queue, the events and the dead letters
//! ([`Memory`] knows which are due, `view::decide` says what is missing), and does the step that is
//! missing. Each step can be repeated without harm and is done only if the record is still the one
//! that was looked at, so two sweeps at once do no harm.

mod memory;
mod sweep;
mod view;

pub use memory::Memory;
pub use sweep::{Projection, Sweep, SweepError, sum};
pub use view::UNCHANGED_FOR;
