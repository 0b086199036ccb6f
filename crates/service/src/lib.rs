// SPDX-License-Identifier: Apache-2.0

//! What every program of Slipway needs once: settings in layers ([`settings`]), telemetry, signals,
//! exit codes and the admin listener; [`run`] puts them together, so that a `main.rs` only names
//! its settings and what it serves.
//!
//! Knows nothing of builds, NATS or registries: a part that has settings owns them and declares
//! them with `clap::Args`. Not used by libraries, which need neither a command line nor a web
//! server: what they share with programs is in `slipway-fault` and `slipway-secret`.

pub mod admin;
pub mod directories;
mod exit;
mod metrics;
mod program;
pub mod settings;
pub mod signals;
pub mod telemetry;

pub use exit::Exit;
pub use metrics::Page;
pub use program::{Program, print, refuse, run, warn};
