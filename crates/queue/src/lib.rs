// SPDX-License-Identifier: Apache-2.0

//! JetStream as Slipway uses it: one connection, the streams and buckets, compare-and-set records,
//! and publishing that knows what a failure means.
//!
//! Dispatcher and worker share this crate so that a rule learnt about the server (a timed-out
//! publish may have been stored; error 10164 is not a lost race; 2.9.10 drops options without an
//! error) is written down once. The rules and their measurements are in `docs/protocol.md`,
//! "What JetStream taught us".

mod bucket;
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
pub mod publish;
pub mod pull;
pub mod query;
pub mod read;
pub mod reconnect;
pub mod record;
mod refusal;
pub mod requests;
pub mod start;
pub mod tag;
#[cfg(test)]
mod testing;
pub mod topology;

pub use connection::{ConnectError, Queue, QueueOptions};
pub use failpoint::{failpoint, is_off};
pub use publish::PublishError;
pub use query::QueryError;
pub use record::{Creating, Record, RecordError, Records};
