// SPDX-License-Identifier: Apache-2.0

//! The words of Slipway as types: everything that client, dispatcher and worker exchange.
//!
//! Holds the identifiers, the build request and its codec, the state machine of a build, the
//! events, the subjects they travel on, the environment catalogue and the documents of the HTTP
//! API. Nothing in this crate does I/O, so all of it can be tested by properties and used by every
//! program.

pub mod api;
pub mod artifact;
pub mod build;
pub mod codec;
pub mod digest;
pub mod environment;
pub mod event;
pub mod failure;
pub mod id;
pub mod outcome;
pub mod platform;
pub mod reference;
pub mod request;
pub mod state;
pub mod subject;
pub mod submission;
pub mod units;

pub use artifact::{ArtifactFacts, ArtifactKind};
pub use build::Build;
pub use digest::Digest;
pub use failure::{Failure, Reason};
pub use id::{BuildId, PoolName, ProjectName, WorkerId};
pub use jiff::Timestamp;
pub use platform::Platform;
pub use reference::Reference;
pub use request::{BuildRequest, Priority};
pub use state::{BuildState, Change, Phase, Stage};
pub use submission::{FieldError, Submission};
