// SPDX-License-Identifier: Apache-2.0

//! The columns of a row, and writing them.

use rusqlite::{Transaction, params};
use slipway_proto::Build;
use slipway_proto::api::StateName;
use slipway_proto::state::Epoch;

use super::list;

/// A build and its row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) build: Build,
    /// The number of its row, and the columns that can change; `None` while there is no row.
    pub(super) stored: Option<(i64, Columns)>,
    /// Whether the row must be written.
    pub(super) dirty: bool,
}

/// The columns of a row that can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    state: StateName,
    order: u64,
    epoch: Epoch,
    replays: u32,
}

impl Columns {
    /// Reads them from a build.
    pub(super) fn of(build: &Build) -> Self {
        Self {
            state: StateName::from(&build.state.phase),
            order: build.order,
            epoch: build.state.epoch,
            replays: build.replays,
        }
    }
}

/// Writes one row and returns its number.
pub(super) fn write(transaction: &Transaction<'_>, row: &Row, body: &str) -> rusqlite::Result<i64> {
    let build = &row.build;
    let request = &build.request;
    let columns = Columns::of(build);
    let state = list::state_number(columns.state);
    let (order, epoch) = (integer(columns.order), integer(columns.epoch));
    let number = match row.stored {
        None => {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO builds (project, id, state, repository, image, accepted_at,
                                     supersede_key, acceptance, epoch, replays)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            statement.insert(params![
                request.project.as_str(),
                request.build.as_bytes(),
                state,
                request.image().name(),
                request.image().to_string(),
                build.accepted_at.as_microsecond(),
                request.supersede_key,
                order,
                epoch,
                columns.replays
            ])?
        }
        Some((number, stored)) if stored == columns => number,
        Some((number, stored))
            if (stored.state, stored.order) == (columns.state, columns.order) =>
        {
            let sql = "UPDATE builds SET epoch = ?2, replays = ?3 WHERE number = ?1";
            transaction.prepare_cached(sql)?.execute(params![number, epoch, columns.replays])?;
            number
        }
        Some((number, _)) => {
            let sql = "UPDATE builds SET epoch = ?2, replays = ?3, state = ?4, acceptance = ?5
                       WHERE number = ?1";
            let values = params![number, epoch, columns.replays, state, order];
            transaction.prepare_cached(sql)?.execute(values)?;
            number
        }
    };
    let sql = "INSERT OR REPLACE INTO bodies VALUES (?1, ?2)";
    transaction.prepare_cached(sql)?.execute(params![number, body])?;
    Ok(number)
}

/// Converts a number for SQLite.
pub(super) fn integer(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
