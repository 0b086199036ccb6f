// SPDX-License-Identifier: Apache-2.0

//! The end-to-end suites, in one binary: each test has a whole Slipway of its own.

mod api;
mod bad_input;
mod batch;
mod bundles;
mod cancel;
mod chaos;
mod cli;
mod cluster;
mod environments;
mod failpoints;
mod faults;
mod fetching;
mod harness;
mod history;
mod images;
mod laid_down_whole;
mod last_lines;
mod letters;
mod limits;
mod load;
mod model;
mod needs;
mod newcomer;
mod platforms;
#[cfg(target_arch = "x86_64")]
mod processors;
mod programs;
mod push;
mod readme;
mod reconciler;
mod registries;
mod retention;
mod starts;
mod switched_off;
mod tags;
mod tokens;
