// SPDX-License-Identifier: Apache-2.0

//! The command line client, `slipway dev` and `slipway build --local`.
//!
//! A library, so that the benchmark and the tests use the same client as people do. Responsible for
//! the HTTP client (`slipway-client`), for what the commands print ([`render`], [`output`]) and for
//! running all of Slipway on one machine ([`dev`]). It builds no image itself; the worker's
//! pipeline does.

pub mod args;
mod commands;
pub mod dev;
mod exit;
mod input;
pub mod local;
pub mod output;
mod pack;
mod platforms;
mod problem;
mod progress;
pub mod render;

pub use args::{Arguments, Effective};
pub use commands::{BatchError, LineError, about, run};
pub use exit::Error;
pub use input::InputError;
pub use platforms::PlatformsError;
