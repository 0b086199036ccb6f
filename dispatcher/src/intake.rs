// SPDX-License-Identifier: Apache-2.0

//! The intake of artifacts: the digest that a client declares, and which artifacts are stored.

pub(crate) mod artifacts;
pub(crate) mod content_digest;
