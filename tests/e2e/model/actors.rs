// SPDX-License-Identifier: Apache-2.0

//! Dispatchers and workers: futures of product code, whose every durable operation first waits for
//! its turn.
//!
//! They hold no rule of their own. Time does not protect them either: whatever a grace period, a
//! lease or a delay is to prevent may happen here, so that what holds does not rest on it.

mod dispatcher;
mod operations;
mod worker;

pub(crate) use dispatcher::{Call, Dispatcher};
pub(crate) use worker::{Interruption, Worker};
