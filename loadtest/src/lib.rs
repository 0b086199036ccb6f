// SPDX-License-Identifier: Apache-2.0

//! The benchmark, `make bench`: how fast images are built, compared with other programs for the same
//! work, and how fast the queue is.
//!
//! It measures the shipped programs from outside. A figure counts as a ratio to a floor or a ceiling
//! of the same run, because milliseconds belong to one machine. Every row is held against the
//! project's [`goals`], and the report says `short` where one is missed.

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
