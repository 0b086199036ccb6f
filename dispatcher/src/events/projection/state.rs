// SPDX-License-Identifier: Apache-2.0

//! The projected state of single builds, which the reconciler compares with records, and the builds
//! that a later one supersedes.

use rusqlite::{Connection, OptionalExtension as _, params};
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::protocol::ProjectedState;

use super::list;

/// Reads the states of builds, in the order asked; `None` for those without events.
pub(super) fn states(
    connection: &Connection,
    builds: &[(ProjectName, BuildId)],
) -> rusqlite::Result<Vec<Option<ProjectedState>>> {
    let mut statement = connection.prepare_cached(
        "SELECT state, epoch, replays FROM builds WHERE project = ?1 AND id = ?2",
    )?;
    let mut state_of = |project: &ProjectName, build: BuildId| {
        statement
            .query_row(params![project.as_str(), build.as_bytes()], |row| {
                let state: i64 = row.get(0)?;
                let (epoch, replays): (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok(ProjectedState {
                    state: list::state_of_number(state),
                    epoch: u64::try_from(epoch).unwrap_or(0),
                    replays: u32::try_from(replays).unwrap_or(0),
                })
            })
            .optional()
    };
    builds.iter().map(|(project, build)| state_of(project, *build)).collect()
}

/// States below 3 are unfinished. Written exactly as in the index, because only then does the index
/// serve the query.
pub(super) const SUPERSEDED: &str = "SELECT id FROM builds
     WHERE project = ?1 AND supersede_key = ?2 AND acceptance < ?3 AND state < 3";

/// Lists the unfinished builds of a key that were accepted before a place in the order.
pub(super) fn superseded(
    connection: &Connection,
    project: &ProjectName,
    key: &str,
    order: u64,
) -> rusqlite::Result<Vec<BuildId>> {
    let order = i64::try_from(order).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(SUPERSEDED)?;
    let ids = statement.query_map(params![project.as_str(), key, order], |row| row.get(0))?;
    ids.map(|id| id.map(BuildId::from_bytes)).collect()
}
