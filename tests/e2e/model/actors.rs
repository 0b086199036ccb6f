// SPDX-License-Identifier: Apache-2.0

//! Dispatchers and workers as lists of steps, each with one durable operation, between any two of
//! which they can stand still or die.
//!
//! The decisions about records are the product's own, [`slipway_proto::Build::apply`]; the order of
//! the steps is written down here a second time. Time is not: whatever a grace period, a lease or a
//! delay is to prevent may happen here, so that what holds does not rest on it.

mod dispatcher;
mod worker;

pub(crate) use dispatcher::{Call, Dispatcher, projected};
pub(crate) use worker::{Choice, Interruption, Worker};
