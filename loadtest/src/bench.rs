// SPDX-License-Identifier: Apache-2.0

//! Benchmarks of Slipway against the goals of its design.

pub mod queue;
pub mod row;
