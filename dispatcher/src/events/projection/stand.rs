// SPDX-License-Identifier: Apache-2.0

//! The projected state of single builds, which the reconciler compares with records, and the builds
//! that a later one supersedes.

use rusqlite::{Connection, OptionalExtension as _, params};
use slipway_proto::api::StateName;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, ProjectName};

use super::list;

/// The state of a build according to the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    /// Where it is.
    pub(crate) state: StateName,
    /// The last claim that an event named.
    pub(crate) epoch: Epoch,
    /// How often it was replayed.
    pub(crate) replays: u32,
}

/// Reads the projected state of builds, in the given order; `None` for a build without events.
pub(super) fn stands(
    connection: &Connection,
    builds: &[(ProjectName, BuildId)],
) -> rusqlite::Result<Vec<Option<Stand>>> {
    let mut statement = connection.prepare_cached(
        "SELECT state, epoch, replays FROM builds WHERE project = ?1 AND id = ?2",
    )?;
    let mut stand = |project: &ProjectName, build: BuildId| {
        statement
            .query_row(params![project.as_str(), build.as_bytes()], |row| {
                let state: i64 = row.get(0)?;
                let (epoch, replays): (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok(Stand {
                    state: list::state_of_number(state),
                    epoch: u64::try_from(epoch).unwrap_or(0),
                    replays: u32::try_from(replays).unwrap_or(0),
                })
            })
            .optional()
    };
    builds.iter().map(|(project, build)| stand(project, *build)).collect()
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
