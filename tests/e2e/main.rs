// SPDX-License-Identifier: Apache-2.0

//! The end-to-end suites, in one binary: each test has a whole Slipway of its own.

mod api;
mod bad_input;
mod cli;
mod environments;
mod faults;
mod images;
mod load;
