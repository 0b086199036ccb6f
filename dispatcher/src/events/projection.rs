// SPDX-License-Identifier: Apache-2.0

//! The projection: builds folded from `EVENTS` into a SQLite file, which answers lists and the
//! details of builds whose live record is gone.
//!
//! It is a cache of the stream and nothing else. Each dispatcher has its own, which can be deleted
//! at any time and is then rebuilt. One thread writes ([`writer`]), because SQLite has one writer
//! and its calls block. A few read-only connections answer queries at the same time, which the
//! write-ahead log makes possible.

mod fold;
mod list;
mod parse;
mod row;
mod schema;
mod state;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension as _, params};
use slipway_proto::{Build, BuildId, ProjectName};
use slipway_queue::protocol::ProjectedState;
use tokio::sync::Semaphore;

pub(crate) use fold::{FindRecord, Folder, RecordUnavailable, Stored};
pub(crate) use list::{Cursor, IdPrefix, ImageFilter, ListQuery, Page};
pub(crate) use parse::event;
pub(crate) use writer::{Work, spawn};

/// How many queries run at once. More would only compete for the same cores and page cache.
const MAX_READERS: usize = 4;

/// Why the projection could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectionError {
    /// SQLite refused.
    #[error("failed to use the projection {path}")]
    Sqlite {
        path: String,
        #[source]
        source: rusqlite::Error,
    },
    /// The directory cannot be made, or a broken file cannot be removed.
    #[error("failed to make room for the projection {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A row does not hold a build, because something else wrote the file.
    #[error("a row of the projection does not parse")]
    Malformed(#[source] serde_json::Error),
    /// A live record that is needed to fold an event could not be read.
    #[error(transparent)]
    Record(#[from] RecordUnavailable),
    /// The projection is being rebuilt, and there are too many builds to list them without the
    /// indexes that are made at the end.
    #[error("the projection is being rebuilt from the events")]
    Rebuilding,
    /// The reading task ended early.
    #[error("the query was cancelled")]
    CalledOff,
}

/// Reads the projection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    /// Whether the indexes for lists exist.
    indexed: Arc<AtomicBool>,
}

impl Projection {
    /// Opens the file for writing and for reading. A file that is missing, of another version or
    /// broken is made again.
    pub(crate) fn open(path: &Path, find: FindRecord) -> Result<(Self, Folder), ProjectionError> {
        let connection = schema::open(path)?;
        let indexed = Arc::new(AtomicBool::new(false));
        let folder = Folder::new(connection, path, find, Arc::clone(&indexed))?;
        let readers = Readers {
            path: path.to_owned(),
            idle: Mutex::default(),
            permits: Semaphore::new(MAX_READERS),
            indexed,
        };
        Ok((Self { readers: Arc::new(readers) }, folder))
    }

    /// Reads one build.
    pub(crate) async fn get(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<Build>, ProjectionError> {
        let project = project.clone();
        let body: Option<String> = self
            .query(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT body FROM builds JOIN bodies USING (number)
                         WHERE project = ?1 AND id = ?2",
                    )?
                    .query_row(params![project.as_str(), build.as_bytes()], |row| row.get(0))
                    .optional()
            })
            .await?;
        body.map(|body| serde_json::from_str(&body).map_err(ProjectionError::Malformed)).transpose()
    }

    /// Reads a page of builds, newest first. Refused during a long rebuild.
    pub(crate) async fn list(&self, query: ListQuery) -> Result<Page, ProjectionError> {
        if !self.readers.indexed.load(Ordering::Acquire) {
            return Err(ProjectionError::Rebuilding);
        }
        let rows = self.query(move |connection| list::rows(connection, &query)).await?;
        rows.into_page()
    }

    /// Lists the unfinished builds of a project with a supersede key that were accepted before a
    /// place in the order.
    pub(crate) async fn superseded(
        &self,
        project: &ProjectName,
        key: &str,
        order: u64,
    ) -> Result<Vec<BuildId>, ProjectionError> {
        let (project, key) = (project.clone(), key.to_owned());
        self.query(move |connection| state::superseded(connection, &project, &key, order)).await
    }

    /// Reads the states of builds, in the order asked; `None` for those without events.
    pub(crate) async fn states(
        &self,
        builds: Vec<(ProjectName, BuildId)>,
    ) -> Result<Vec<Option<ProjectedState>>, ProjectionError> {
        self.query(move |connection| state::states(connection, &builds)).await
    }

    async fn query<T, F>(&self, query: F) -> Result<T, ProjectionError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let _permit = self.readers.permits.acquire().await.expect("nobody closes it");
        let readers = Arc::clone(&self.readers);
        let answer = tokio::task::spawn_blocking(move || {
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_for_reading(&readers.path)?,
            };
            let answer = query(&connection).map_err(schema::refused(&readers.path))?;
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(answer)
        });
        answer.await.unwrap_or(Err(ProjectionError::CalledOff))
    }
}

#[cfg(test)]
mod tests;
