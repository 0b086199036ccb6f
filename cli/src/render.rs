// SPDX-License-Identifier: Apache-2.0

//! What the commands print for people, as text: pure functions of documents of the API.

mod build;
mod event;
mod status;
mod table;
mod units;

pub use build::{build_details, build_list, outcome, state};
pub use event::event_line;
pub use status::{environments, queue, workers};
pub use table::Table;
pub use units::{age, duration, size};
