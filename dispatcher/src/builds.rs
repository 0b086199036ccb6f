// SPDX-License-Identifier: Apache-2.0

//! What can be done with builds: accept, find, cancel, supersede, and replay dead letters.
//!
//! Each file is one durable protocol. The live record in NATS is the truth; the projection answers
//! for builds whose record has expired.

pub(crate) mod accept;
pub(crate) mod announce;
pub(crate) mod cancel;
pub(crate) mod dead;
pub(crate) mod existence;
pub(crate) mod find;
pub(crate) mod supersede;
