// SPDX-License-Identifier: Apache-2.0

//! The command line client, `slipway dev` and `slipway build --local`.
//!
//! A library, so that the load generator and the tests speak to a dispatcher by the same client as
//! people do. Responsible for the HTTP client ([`client`]), for what the commands print
//! ([`render`], [`output`]) and for running the whole of Slipway on one machine ([`dev`]). Builds
//! nothing itself: that is the worker's.

pub mod args;
mod commands;
pub mod dev;
mod exit;
pub mod local;
pub mod output;
mod progress;
pub mod render;
mod telemetry;

pub use args::Arguments;
pub use commands::{BatchError, run};
pub use exit::{Error, Exit};
