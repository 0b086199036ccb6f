// SPDX-License-Identifier: Apache-2.0

//! What an uploaded artifact is, read defensively from its bytes, and the store that keeps it.
//!
//! Everything here reads through [`Source`], by position: an artifact is never held in memory and
//! never unpacked to disk, so memory does not depend on its size. Everything an archive claims
//! about itself (counts, sizes, offsets, names) is bounded or checked before it is used, because
//! the people who upload are not the people who run the service.

pub mod bundle;
mod digest_file;
pub mod elf;
pub mod file_identity;
mod foreign;
pub mod inspect;
pub mod invalid;
#[cfg(feature = "store")]
pub mod known_facts;
pub mod manifest;
#[cfg(feature = "store")]
pub mod record_cache;
pub mod source;
pub mod spring_boot;
#[cfg(feature = "store")]
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(feature = "store")]
pub mod verified_files;
pub mod words;
pub mod zip;

pub use bundle::Bundle;
pub use digest_file::digest_file;
pub use file_identity::FileIdentity;
pub use inspect::{inspect, inspect_in};
pub use invalid::{Code, InspectError, InvalidArtifact};
#[cfg(feature = "store")]
pub use known_facts::KnownFacts;
pub use manifest::Manifest;
#[cfg(feature = "store")]
pub use record_cache::{RecordCache, RecordKey};
pub use source::{FileSource, Section, Source, SourceReader};
pub use spring_boot::Layers;
#[cfg(feature = "store")]
pub use store::{
    ArtifactStore, Aside, Fetched, ReceiveError, StoreError, StoredArtifact, StoredLog, Upload,
    Verification,
};
#[cfg(feature = "store")]
pub use verified_files::VerifiedFiles;
pub use zip::{Archive, Entry, EntryReader, Method};
