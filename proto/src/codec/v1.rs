// SPDX-License-Identifier: Apache-2.0

//! Version 1 of the request: without limits on waiting and stalling, supersede key and retry.

use std::collections::BTreeMap;

use crate::id::SecretName;
use crate::request::{
    Artifact, Compression, Port, Recipe, default_queue_timeout_s, default_stall_timeout_s,
};
use crate::{BuildId, Platform, PoolName, Priority, ProjectName, Reference};

/// The fields of version 1, in its order, which is its format.
#[derive(bincode::Encode, bincode::Decode)]
pub(super) struct BuildRequest {
    build: BuildId,
    project: ProjectName,
    artifact: Artifact,
    references: Vec<Reference>,
    recipe: Recipe,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<Port>,
    args: Vec<String>,
    user: Option<String>,
    platform: Platform,
    priority: Priority,
    pool: PoolName,
    registry_secret: Option<SecretName>,
    timeout_s: u32,
    max_attempts: u32,
}

impl From<BuildRequest> for crate::BuildRequest {
    fn from(older: BuildRequest) -> Self {
        Self {
            build: older.build,
            project: older.project,
            artifact: older.artifact,
            references: older.references,
            recipe: older.recipe,
            env: older.env,
            labels: older.labels,
            annotations: older.annotations,
            ports: older.ports,
            args: older.args,
            user: older.user,
            platform: older.platform,
            priority: older.priority,
            pool: older.pool,
            registry_secret: older.registry_secret,
            timeout_s: older.timeout_s,
            max_attempts: older.max_attempts,
            queue_timeout_s: default_queue_timeout_s(),
            stall_timeout_s: default_stall_timeout_s(),
            supersede_key: None,
            retry_of: None,
            compression: Compression::default(),
        }
    }
}

#[cfg(test)]
impl From<crate::BuildRequest> for BuildRequest {
    fn from(newer: crate::BuildRequest) -> Self {
        Self {
            build: newer.build,
            project: newer.project,
            artifact: newer.artifact,
            references: newer.references,
            recipe: newer.recipe,
            env: newer.env,
            labels: newer.labels,
            annotations: newer.annotations,
            ports: newer.ports,
            args: newer.args,
            user: newer.user,
            platform: newer.platform,
            priority: newer.priority,
            pool: newer.pool,
            registry_secret: newer.registry_secret,
            timeout_s: newer.timeout_s,
            max_attempts: newer.max_attempts,
        }
    }
}
