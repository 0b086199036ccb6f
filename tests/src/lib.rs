// SPDX-License-Identifier: Apache-2.0

//! The harness of the end-to-end suites: a private nats-server, registry, dispatcher and workers
//! for each test, all real, on free ports of loopback; and the faults to break them with.
//!
//! Nothing here sleeps and hopes: tests wait for conditions with a deadline. Every process is ended
//! by its id when its handle is dropped.

pub mod artifacts;
pub mod certificate;
pub mod chaos;
pub mod container;
pub mod disk;
pub mod events;
pub mod faulty_registry;
pub mod http;
pub mod link;
pub mod nats;
pub mod port;
pub mod process;
pub mod proxy;
pub mod registry;
pub mod stack;
pub mod token_server;
pub mod wait;

pub use stack::{Stack, WorkerOptions};
