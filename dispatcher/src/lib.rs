// SPDX-License-Identifier: Apache-2.0

//! The dispatcher: HTTP API, artifact intake, publishing of build requests and the projection of
//! events.
//!
//! It accepts a build by the protocol of `builds::accept` and holds no state that it cannot
//! rebuild: live records are in the key-value bucket, history is in the stream `EVENTS`, artifacts
//! and old logs are in the artifact store, and its SQLite file is folded from the events. So any
//! number of dispatchers can serve at once, and a killed one loses nothing.
//!
//! The library holds the behaviour, so that `slipway dev` can run it inside its own process.

mod app;
mod builds;
pub mod config;
mod events;
mod http;
mod intake;
mod metrics;
mod pools;
mod readiness;
mod reconcile;
mod retention;
pub mod server;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use server::Dispatcher;
