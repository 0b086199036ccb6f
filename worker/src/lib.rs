// SPDX-License-Identifier: Apache-2.0

//! Pulls builds, assembles images on cached base layers, pushes them and publishes events.
//!
//! [`Worker`] is the process. [`pipeline`] turns one artifact into an image, also without a queue.
//! [`assemble`] makes the image itself and is a function of its input alone.

pub mod assemble;
mod attempt;
pub mod base;
pub mod cache;
pub mod config;
pub mod export;
pub mod failure;
pub mod input;
mod lease;
pub mod liveness;
pub mod local;
mod log;
pub mod observer;
pub mod pipeline;
mod pull;
pub mod push;
mod running;
pub mod stage_clock;
pub mod stages;
mod status;
mod worker;

pub use base::Mirror;
pub use config::{Config, RegistryConfig};
pub use stages::{ImageStages, PipelineStages};
pub use worker::{Worker, WorkerError};
