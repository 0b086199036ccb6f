// SPDX-License-Identifier: Apache-2.0

//! Folding events into rows.
//!
//! A batch is one transaction that also moves `last_sequence`, so an event is folded exactly once
//! however often it is delivered.
//!
//! A worker may publish that it started a build before the dispatcher publishes that it accepted
//! it, because both have connections of their own. For an event of an unknown build the live record
//! is read. If that is gone too, as in a rebuild from old events, the event waits in the table
//! `early` for the `build.queued` that follows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use slipway_fault::chain;
use slipway_proto::event::{Event, EventBody, Queued};
use slipway_proto::{Build, BuildId, ProjectName, Timestamp};

use super::row::{self, Columns, Row, integer};
use super::{ProjectionError, schema};

/// How many unfinished builds are kept parsed between batches. Each takes a few KiB. Other builds
/// are read from their rows again.
const MAX_ACTIVE: usize = 5_000;

/// How far behind an early event may fall before it is given up, because its `build.queued` never
/// came.
const EARLY_WINDOW: u64 = 100_000;

/// A rebuild of at least this many events makes the indexes for lists at its end. Fewer are folded
/// in a second or two, including the indexes.
const LONG_REBUILD: u64 = 50_000;

/// The live record could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the live record of a build")]
pub(crate) struct RecordUnavailable(#[source] pub(crate) slipway_queue::RecordError);

/// Looks for the live record of a build.
pub(crate) type FindRecord =
    Box<dyn Fn(&ProjectName, BuildId) -> Result<Option<Build>, RecordUnavailable> + Send>;

/// A message of the stream, read as an event.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Its sequence in the stream.
    pub(crate) sequence: u64,
    /// The event; `None` if the message does not parse, or changes no row.
    pub(crate) event: Option<Event>,
}

/// Folds events into the file.
pub(crate) struct Folder {
    connection: Connection,
    path: PathBuf,
    find: FindRecord,
    last_sequence: u64,
    active: HashMap<BuildId, Row>,
    /// Whether the indexes for lists exist, for readers.
    indexed: Arc<AtomicBool>,
    /// Whether data was written without waiting for the disk.
    unsynced: bool,
    /// The thread that waits for the disk after that.
    syncing: Option<JoinHandle<()>>,
}

impl Folder {
    pub(super) fn new(
        connection: Connection,
        path: &Path,
        find: FindRecord,
        indexed: Arc<AtomicBool>,
    ) -> Result<Self, ProjectionError> {
        let refused = schema::refused(path);
        let last_sequence = last_sequence(&connection).map_err(&refused)?;
        let has_indexes = schema::has_list_indexes(&connection).map_err(&refused)?;
        indexed.store(has_indexes, Ordering::Release);
        let mut unsynced = schema::is_unsynced(&connection).map_err(&refused)?;
        if unsynced && !has_indexes {
            // In the middle of a rebuild.
            unsynced = schema::write_unsynced(&connection).map_err(&refused)?;
        }
        let (path, active) = (path.to_owned(), HashMap::new());
        let syncing = None;
        Ok(Self { connection, path, find, last_sequence, active, indexed, unsynced, syncing })
    }

    /// Returns the sequence of the last event that was folded.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Makes sure that the file is a projection of this stream. A stream that was created at
    /// another time, or ends before the last folded event, has other events under the same
    /// sequences.
    pub(crate) fn align(&mut self, created: i128, last: u64) -> Result<(), ProjectionError> {
        let refused = schema::refused(&self.path);
        let created = created.to_string();
        let known: Option<String> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'stream_created'", [], |row| row.get(0))
            .optional()
            .map_err(&refused)?;
        let same = known.as_ref().is_none_or(|known| *known == created);
        if !same || last < self.last_sequence {
            tracing::warn!(
                "the event stream is another one than before; rebuilding the \
                projection"
            );
            self.active.clear();
            self.wait_for_disk();
            // The file's mark goes with its contents. From here on, writes wait for the disk.
            schema::write_synced(&self.connection).map_err(&refused)?;
            self.unsynced = false;
            schema::reset(&self.connection).map_err(&refused)?;
            self.last_sequence = 0;
        }
        self.connection
            .execute("INSERT OR REPLACE INTO meta VALUES ('stream_created', ?1)", [created])
            .map_err(&refused)?;
        if self.last_sequence == 0 && last > LONG_REBUILD {
            tracing::info!(
                events = last,
                "rebuilding the projection from all events; lists wait \
                for it"
            );
            self.indexed.store(false, Ordering::Release);
            schema::drop_list_indexes(&self.connection).map_err(&refused)?;
            self.unsynced = schema::write_unsynced(&self.connection).map_err(&refused)?;
        } else if !same || last == 0 {
            self.complete()?;
        }
        Ok(())
    }

    /// Makes lists possible at the end of the events: makes the indexes that a long rebuild did
    /// without, perhaps in an earlier process that crashed.
    pub(crate) fn complete(&mut self) -> Result<(), ProjectionError> {
        let refused = schema::refused(&self.path);
        if !self.indexed.load(Ordering::Acquire) {
            let started = Instant::now();
            schema::make_list_indexes(&self.connection).map_err(&refused)?;
            self.indexed.store(true, Ordering::Release);
            tracing::info!(elapsed = ?started.elapsed(), "lists are available again");
        }
        if self.unsynced {
            schema::write_synced(&self.connection).map_err(&refused)?;
            self.unsynced = false;
            // It takes as long as the disk needs for the rest of gigabytes. Folding continues.
            let path = self.path.clone();
            self.syncing = Some(std::thread::spawn(move || {
                if let Err(error) = schema::sync(&path) {
                    tracing::warn!(
                        error = chain(&error),
                        "a power failure would cost the \
                        projection"
                    );
                }
            }));
        }
        Ok(())
    }

    /// Waits until everything that was written without waiting is on the disk.
    pub(super) fn wait_for_disk(&mut self) {
        if let Some(syncing) = self.syncing.take()
            && syncing.join().is_err()
        {
            tracing::error!("the thread that waits for the disk panicked");
        }
    }

    /// Folds a batch and returns how many of its events were new. After an error, nothing is
    /// folded.
    pub(crate) fn fold(&mut self, batch: &[Stored]) -> Result<usize, ProjectionError> {
        let outcome = self.try_fold(batch);
        if outcome.is_err() {
            // The parsed builds may be ahead of their rows now.
            self.active.clear();
        }
        let bounded = schema::bound_log(&self.connection, &self.path, schema::MAX_LOG_BYTES);
        if let Err(error) = bounded {
            tracing::debug!(%error, "the projection's write-ahead log was not shortened");
        }
        outcome
    }

    fn try_fold(&mut self, batch: &[Stored]) -> Result<usize, ProjectionError> {
        let refused = schema::refused(&self.path);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&refused)?;
        let before = last_sequence(&transaction).map_err(&refused)?;
        if before != self.last_sequence {
            // Another process writes to the same file.
            self.active.clear();
        }
        let mut batch_fold = BatchFold {
            transaction: &transaction,
            active: &mut self.active,
            touched: Vec::new(),
            find: &self.find,
            path: &self.path,
        };
        let new = || batch.iter().filter(|stored| stored.sequence > before);
        // First the events that introduce a build, because others of the batch may need it.
        for event in new().filter_map(|stored| stored.event.as_ref()) {
            batch_fold.accept(event)?;
        }
        for stored in new() {
            if let Some(event) = &stored.event {
                batch_fold.fold(stored.sequence, event)?;
            }
        }
        let touched = batch_fold.write()?;
        let last = batch.iter().map(|stored| stored.sequence).max().unwrap_or(0).max(before);
        transaction
            .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'last_sequence'")
            .and_then(|mut statement| statement.execute([integer(last)]))
            .map_err(&refused)?;
        transaction
            .prepare_cached("DELETE FROM early WHERE sequence < ?1")
            .and_then(|mut statement| {
                statement.execute([integer(last.saturating_sub(EARLY_WINDOW))])
            })
            .map_err(&refused)?;
        transaction.commit().map_err(&refused)?;
        self.last_sequence = last;
        for id in touched {
            if let Entry::Occupied(row) = self.active.entry(id)
                && row.get().build.state.is_finished()
            {
                row.remove();
            }
        }
        if self.active.len() > MAX_ACTIVE {
            self.active.clear();
        }
        Ok(new().count())
    }
}

/// The folding of one batch, inside its transaction.
struct BatchFold<'a> {
    transaction: &'a Transaction<'a>,
    active: &'a mut HashMap<BuildId, Row>,
    /// The builds that were touched, some more than once.
    touched: Vec<BuildId>,
    find: &'a FindRecord,
    path: &'a Path,
}

impl BatchFold<'_> {
    /// Introduces a build by its `build.queued`.
    fn accept(&mut self, event: &Event) -> Result<(), ProjectionError> {
        let EventBody::Queued(queued) = &event.body else { return Ok(()) };
        if self.known(event)? {
            return Ok(());
        }
        let mut build = accepted(queued, event.time);
        for early in self.take_early(event.subject)? {
            build.fold(&early);
        }
        self.insert(event.subject, build);
        Ok(())
    }

    fn insert(&mut self, id: BuildId, build: Build) {
        self.touched.push(id);
        self.active.insert(id, Row { build, stored: None, dirty: true });
    }

    /// Folds an event in its turn. A `build.queued` is news here if it belongs to a replay.
    fn fold(&mut self, sequence: u64, event: &Event) -> Result<(), ProjectionError> {
        if !self.known(event)? {
            match (self.find)(&event.source.project, event.subject)? {
                Some(build) => self.insert(event.subject, build),
                None => return self.put_early(sequence, event),
            }
        }
        if let Entry::Occupied(mut entry) = self.active.entry(event.subject) {
            let row = entry.get_mut();
            row.build.fold(event);
            if !row.dirty {
                row.dirty = true;
                self.touched.push(event.subject);
            }
        }
        Ok(())
    }

    /// Loads an event's build into `active`; returns whether it exists.
    fn known(&mut self, event: &Event) -> Result<bool, ProjectionError> {
        let id = event.subject;
        if self.active.contains_key(&id) {
            return Ok(true);
        }
        let project = event.source.project.as_str();
        let found: Option<(i64, String)> = self
            .transaction
            .prepare_cached(
                "SELECT number, body FROM builds JOIN bodies USING (number)
                 WHERE project = ?1 AND id = ?2",
            )
            .and_then(|mut statement| {
                let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                statement.query_row(params![project, id.as_bytes()], row).optional()
            })
            .map_err(schema::refused(self.path))?;
        let Some((number, body)) = found else { return Ok(false) };
        let build: Build = serde_json::from_str(&body).map_err(ProjectionError::Malformed)?;
        let stored = Some((number, Columns::of(&build)));
        self.touched.push(id);
        self.active.insert(id, Row { build, stored, dirty: false });
        Ok(true)
    }

    fn put_early(&self, sequence: u64, event: &Event) -> Result<(), ProjectionError> {
        tracing::warn!(
            build = %event.subject,
            event = event.body.short_type(),
            "an event of a build that is not known; it waits for the build's first"
        );
        let body = serde_json::to_string(event).map_err(ProjectionError::Malformed)?;
        self.transaction
            .prepare_cached("INSERT OR IGNORE INTO early VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| {
                statement.execute(params![event.subject.as_bytes(), integer(sequence), body])
            })
            .map_err(schema::refused(self.path))?;
        Ok(())
    }

    fn take_early(&self, id: BuildId) -> Result<Vec<Event>, ProjectionError> {
        let refused = schema::refused(self.path);
        let id = id.as_bytes();
        let bodies: Vec<String> = self
            .transaction
            .prepare_cached("SELECT body FROM early WHERE id = ?1 ORDER BY sequence")
            .and_then(|mut statement| statement.query_map([id], |row| row.get(0))?.collect())
            .map_err(&refused)?;
        if !bodies.is_empty() {
            self.transaction.execute("DELETE FROM early WHERE id = ?1", [id]).map_err(&refused)?;
        }
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).map_err(ProjectionError::Malformed))
            .collect()
    }

    /// Writes the rows of changed builds, touching an index only if its columns changed, and
    /// returns the touched builds.
    fn write(self) -> Result<Vec<BuildId>, ProjectionError> {
        let refused = schema::refused(self.path);
        let mut body = Vec::new();
        for id in &self.touched {
            let Some(row) = self.active.get_mut(id).filter(|row| row.dirty) else { continue };
            body.clear();
            serde_json::to_writer(&mut body, &row.build).map_err(ProjectionError::Malformed)?;
            let text = str::from_utf8(&body).expect("JSON is written as UTF-8");
            let number = row::write(self.transaction, row, text).map_err(&refused)?;
            row.stored = Some((number, Columns::of(&row.build)));
            row.dirty = false;
        }
        Ok(self.touched)
    }
}

/// Makes a build from its `build.queued`, if nothing else is known of it.
fn accepted(queued: &Queued, time: Timestamp) -> Build {
    let mut build = Build::accepted(queued.request.clone(), queued.submission, time);
    build.order = queued.order;
    if queued.replays > 0 {
        // The events before its replay are gone.
        build.replays = queued.replays;
        build.replayed_at = Some(time);
        build.state.epoch = queued.epoch;
    }
    build
}

fn last_sequence(connection: &Connection) -> rusqlite::Result<u64> {
    let last: i64 = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'last_sequence'")?
        .query_row([], |row| row.get(0))?;
    Ok(u64::try_from(last).unwrap_or(0))
}
