// SPDX-License-Identifier: Apache-2.0

//! What the commands print for people, as text: pure functions of documents of the API.

mod build;
mod collection;
mod dead;
mod event;
mod facts;
mod status;
mod table;
mod units;

pub use build::{build_details, build_line, build_list, cancelled, outcome, state};
pub use collection::collection;
pub use dead::{dead_letter_details, dead_letters};
pub use event::event_line;
pub use slipway_proto::units::size;
pub use status::{draining, environments, queue, repairs, workers};
pub use table::Table;
pub use units::{age, duration};

#[cfg(test)]
pub(crate) use build::tests::build as example_build;
