// SPDX-License-Identifier: Apache-2.0

//! Version 2 of the request: without a choice of compression.

use std::collections::BTreeMap;

use crate::id::SecretName;
use crate::request::{Artifact, Compression, Port, Recipe};
use crate::{BuildId, Platform, PoolName, Priority, ProjectName, Reference};

/// The fields of version 2, in its order, which is its format.
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
    queue_timeout_s: u32,
    stall_timeout_s: u32,
    supersede_key: Option<String>,
    retry_of: Option<BuildId>,
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
            queue_timeout_s: older.queue_timeout_s,
            stall_timeout_s: older.stall_timeout_s,
            supersede_key: older.supersede_key,
            retry_of: older.retry_of,
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
            queue_timeout_s: newer.queue_timeout_s,
            stall_timeout_s: newer.stall_timeout_s,
            supersede_key: newer.supersede_key,
            retry_of: newer.retry_of,
        }
    }
}
