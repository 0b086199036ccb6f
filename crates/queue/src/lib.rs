// SPDX-License-Identifier: Apache-2.0

//! JetStream as Slipway uses it: one connection, the streams and buckets, compare-and-set records,
//! publishing that knows what a failure means, and pulling.
//!
//! This crate is a wall: no other crate of the product names `async_nats`, and none of its types
//! has to be named to use this one. Dispatcher and worker share it so that each rule learnt about
//! the server is written down once, as that a publish which timed out may have been stored, that
//! error 10164 is not a lost race, and that 2.9.10 silently drops options. The rules, and where they
//! were measured, are in `docs/protocol.md`, "What JetStream taught us".

mod bucket;
pub mod config;
pub mod connection;
pub mod control;
pub mod dead;
pub mod delivery;
pub mod depth;
pub mod durability;
pub mod election;
pub mod events;
pub mod failpoint;
mod json;
pub mod log;
pub mod outcomes;
pub mod presence;
pub mod probe;
pub mod protocol;
pub mod publish;
pub mod pull;
pub mod query;
pub mod read;
pub mod reconnect;
pub mod record;
pub mod references;
mod refusal;
pub mod requests;
pub mod retention;
pub mod start;
pub mod tag;
#[cfg(test)]
mod testing;
pub mod topology;

pub use config::NatsConfig;
pub use connection::{ConnectError, Queue};
pub use failpoint::{failpoint, is_off};
pub use publish::PublishError;
pub use query::QueryError;
pub use record::{Creating, Record, RecordError, Records};
