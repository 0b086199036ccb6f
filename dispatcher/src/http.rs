// SPDX-License-Identifier: Apache-2.0

//! The HTTP interface: routes, what they read from requests, and how errors become documents.
//!
//! Only this room knows HTTP. The other rooms return their own errors; `problem` maps them.

pub(crate) mod extract;
pub(crate) mod problem;
pub(crate) mod routes;
pub(crate) mod sse;
pub(crate) mod write_timeout;
