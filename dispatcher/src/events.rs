// SPDX-License-Identifier: Apache-2.0

//! Events and logs: one reader of the stream `EVENTS`, the projection that is folded from it, the
//! subscribers that it is handed to, and the archive of finished logs.

pub(crate) mod archive;
pub(crate) mod feed;
pub(crate) mod follow;
pub(crate) mod projection;
