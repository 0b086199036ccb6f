// SPDX-License-Identifier: Apache-2.0

//! The benchmark, `make bench`: how fast images are built, beside the programs that people use for
//! it now, and how fast the queue is.
//!
//! What is measured is the shipped programs, from outside. Ratios count, to a floor that is measured
//! in the same run; milliseconds belong to one machine. Every row is held against the goals that the
//! project set itself, and the report says `short` where one is missed.

pub mod goals;
pub mod image;
pub mod inputs;
pub mod machine;
pub mod memory;
pub mod queue;
pub mod report;
pub mod row;
pub mod samples;
pub mod svg;
