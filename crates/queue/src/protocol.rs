// SPDX-License-Identifier: Apache-2.0

//! The durable protocols: accept, claim, commit, tags, cancel, replay, reconcile.
//!
//! What to do next is a plain function of what was read (`decide`, `judge`, `closing` and the like),
//! which tests call without a server. A thin loop performs it over the trait [`Operations`], which
//! [`Queue`](crate::Queue) implements on JetStream and the model test in memory: the model
//! interleaves and crashes these very loops. Dispatcher and worker call them and keep what is theirs
//! alone: HTTP, projection, lease, stages, log.
//!
//! The protocols are here, and not in `proto`, because they speak of revisions, deliveries and the
//! errors of this crate; nothing in them names NATS. `docs/protocol.md` says why each step is where
//! it is.

pub mod accept;
pub mod attempt;
pub mod cancel;
pub mod claim;
mod feed;
mod nats;
mod operations;
pub mod reconcile;
pub mod replay;
mod settle;
mod tags;

pub use feed::{Feed, ProjectedState, Unreadable, announce, unseen};
pub use operations::Operations;
