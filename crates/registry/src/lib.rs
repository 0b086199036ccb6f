// SPDX-License-Identifier: Apache-2.0

//! The client of OCI registries: one connection pool and one set of tokens for all builds of a
//! process.
//!
//! No client library is suitable: `oci-client` 0.18 probes `/v2/` before each request to an open
//! registry, drops `Retry-After`, gives up the upload session of a refused mount, and gets tokens
//! for one repository, which allow no mount. The requests are those of the OCI distribution
//! specification 1.1; the methods name its sections.

mod access;
mod address;
mod authorize;
mod body;
mod challenge;
mod connect;
pub mod credentials;
mod download;
pub mod error;
mod error_document;
mod manifest;
mod redirect;
mod repository;
mod resume;
mod single_flight;
mod token;
mod tokens;
mod transport;
mod trust;
mod upload;

use slipway_fault::Backoff;

pub use error::{ErrorKind, RegistryError};
pub use error_document::ErrorCode;
pub use manifest::MAX_MANIFEST;
pub use repository::{Manifest, Repository};
pub use resume::{Pieces, Upload, UploadError};
pub use single_flight::{Flight, SingleFlight};
pub use transport::{Registry, RegistryOptions};
pub use upload::{Mounted, Posted, UploadSession};

/// The pauses before what broke is tried again. The first two take less than a build notices; all
/// four together are as long as a registry takes to restart.
const TRANSFER_BACKOFF: Backoff = Backoff::constant(50, 4, 3_200, 20);
