// SPDX-License-Identifier: Apache-2.0

//! What every crate does about a fault: it says what caused it ([`chain`], [`root_cause`]) and waits
//! before it tries again ([`Backoff`]).
//!
//! A crate of its own below all others, and not a part of `slipway-service`: queue, registry and
//! client need these two, and must not wait for a web server and a command line parser to compile.

mod backoff;
mod chain;

pub use backoff::{Backoff, InvalidBackoff, Pauses};
pub use chain::{chain, plain, root_cause};
