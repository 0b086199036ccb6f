// SPDX-License-Identifier: Apache-2.0

//! The tables of the projection, and opening the file that holds them.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::ProjectionError;

/// The version of the tables and of their contents. A file of another version is rebuilt. Raise it
/// whenever a row would come out differently.
const SCHEMA_VERSION: &str = "4";

/// How long a statement waits for another process's lock, as when two dispatchers share a file by
/// mistake.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of the file the writer keeps in memory, in KiB: the inner pages of every index of a
/// million builds, so that an event costs no more than its leaves.
const WRITER_CACHE_KIB: u32 = 32 * 1024;

/// How much of the file each reader keeps in memory, in KiB.
const READER_CACHE_KIB: u32 = 8 * 1024;

/// After how many pages of 4 KiB the write-ahead log is copied into the file, which waits for the
/// disk.
const CHECKPOINT_PAGES: u32 = 16_000;

/// What remains of the write-ahead log in bytes after it was larger, as when indexes were made.
const LOG_BYTES: u32 = 64 * 1024 * 1024;

/// How large the write-ahead log may become while there is always a reader. It starts over only
/// when nobody reads from it; above this size the writer waits for that moment.
pub(super) const MAX_LOG_BYTES: u64 = 128 * 1024 * 1024;

/// The documents of builds are in a table of their own, under the same numbers: they are most of
/// the file, and making an index does not read them. States below 3 are unfinished: few of a
/// million, so the index by supersede key stays small.
const TABLES: &str = "
    DROP TABLE IF EXISTS meta;
    DROP TABLE IF EXISTS builds;
    DROP TABLE IF EXISTS bodies;
    DROP TABLE IF EXISTS early;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    CREATE TABLE builds (
        number INTEGER PRIMARY KEY,
        project TEXT NOT NULL,
        id BLOB NOT NULL,
        state INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        replays INTEGER NOT NULL,
        repository TEXT NOT NULL,
        image TEXT NOT NULL,
        accepted_at INTEGER NOT NULL,
        supersede_key TEXT,
        acceptance INTEGER NOT NULL,
        UNIQUE (project, id)
    );
    CREATE TABLE bodies (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
    CREATE INDEX builds_by_supersede_key ON builds (project, supersede_key, acceptance, id)
        WHERE supersede_key IS NOT NULL AND state < 3;
    CREATE TABLE early (
        id BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (id, sequence)
    ) WITHOUT ROWID;
";

/// The indexes for lists, which a long rebuild makes at its end.
///
/// Every list is the part of one state in one of them, already in the order of the answer, so a
/// page costs the same among a thousand builds and a million (see `list`).
const LIST_INDEXES: [(&str, &str); 3] = [
    ("builds_by_state", "(project, state, accepted_at, id)"),
    ("builds_by_repository", "(project, repository, state, accepted_at, id)"),
    ("builds_by_image", "(project, image, state, accepted_at, id)"),
];

/// Adds the file to an error of SQLite.
pub(super) fn refused(path: &Path) -> impl Fn(rusqlite::Error) -> ProjectionError + use<> {
    let path = path.display().to_string();
    move |source| ProjectionError::Sqlite { path: path.clone(), source }
}

/// Opens the file for the one writer.
pub(super) fn open(path: &Path) -> Result<Connection, ProjectionError> {
    let io = |source| ProjectionError::Io { path: path.display().to_string(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io)?;
    }
    let opened = try_open(path);
    let broken = match &opened {
        Err(error) if is_broken(error) => Some(error.to_string()),
        Ok(connection) if is_torn(connection).map_err(refused(path))? => {
            Some("the machine stopped before everything was on the disk".to_owned())
        }
        _ => None,
    };
    match broken {
        Some(error) => {
            drop(opened);
            tracing::warn!(
                path = %path.display(),
                error,
                "the projection is broken; rebuilding it from the events"
            );
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                match std::fs::remove_file(&name) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io(error));
                    }
                    _ => {}
                }
            }
            try_open(path).map_err(refused(path))
        }
        None => opened.map_err(refused(path)),
    }
}

/// The key in `meta` of the `boot_id` under which the file was written without waiting for the
/// disk.
const UNSYNCED: &str = "unsynced";

/// Returns the `boot_id` of the running kernel, if it is known. Data written without waiting for
/// the disk survives the process, but not the machine.
fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Returns whether the machine stopped while the file was written without waiting for the disk.
fn is_torn(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(unsynced(connection)?.is_some_and(|written| boot().is_none_or(|boot| boot != written)))
}

/// Returns whether the file is one that was written without waiting for the disk.
pub(super) fn is_unsynced(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(unsynced(connection)?.is_some())
}

fn unsynced(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    connection.query_row(sql, [UNSYNCED], |row| row.get(0)).optional()
}

/// From now on nothing waits for the disk: in a long rebuild, checkpoints would otherwise wait
/// longer than folding takes. A mark in the file says so and is on the disk before that. After a
/// power failure a marked file is rebuilt (see [`open`]). Returns whether the mark could be set.
pub(super) fn write_unsynced(connection: &Connection) -> rusqlite::Result<bool> {
    let Some(boot) = boot() else { return Ok(false) };
    if !is_unsynced(connection)? {
        connection.execute("INSERT INTO meta VALUES (?1, ?2)", [UNSYNCED, &boot])?;
        let busy: bool =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            return forget_unsynced(connection).map(|()| false);
        }
    }
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    Ok(true)
}

/// From now on checkpoints wait for the disk again. Earlier data may not be there yet.
pub(super) fn write_synced(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous = NORMAL")
}

/// Waits until all earlier data is on the disk, and then removes the mark.
pub(super) fn sync(path: &Path) -> Result<(), ProjectionError> {
    let io = |source| ProjectionError::Io { path: path.display().to_string(), source };
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    for file in [Path::new(&log), path] {
        std::fs::File::open(file).and_then(|file| file.sync_all()).map_err(io)?;
    }
    let forget = || {
        let connection = Connection::open(path)?;
        settled(&connection)?;
        forget_unsynced(&connection)
    };
    forget().map_err(refused(path))
}

fn forget_unsynced(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM meta WHERE key = ?1", [UNSYNCED]).map(|_| ())
}

/// Sets the options that writer and readers share.
fn settled(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Plans do not depend on values. Otherwise they might, because an index is partial, and every
    // statement would be compiled again for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn try_open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    settled(&connection)?;
    // A power failure may cost the last transactions, which are read from the stream again. So no
    // commit needs to wait for the disk.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
         PRAGMA journal_size_limit = {LOG_BYTES};
         PRAGMA cache_size = -{WRITER_CACHE_KIB};"
    ))?;
    let has_meta: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'meta')",
        [],
        |row| row.get(0),
    )?;
    let version: Option<String> = if has_meta {
        connection
            .query_row("SELECT value FROM meta WHERE key = 'schema_version'", [], |row| row.get(0))
            .optional()?
    } else {
        None
    };
    if version.as_deref() != Some(SCHEMA_VERSION) {
        reset(&connection)?;
    }
    Ok(connection)
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Makes the tables again, empty.
pub(super) fn reset(connection: &Connection) -> rusqlite::Result<()> {
    let indexes: String = LIST_INDEXES.map(create).concat();
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} {indexes}
         INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}'), ('last_sequence', 0);
         COMMIT;"
    ))
}

/// Restarts the write-ahead log if it is larger than `max` bytes. Readers that begin now read from
/// the file. Those that already read from the log are waited for, as long as one query takes.
pub(super) fn bound_log(connection: &Connection, path: &Path, max: u64) -> rusqlite::Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if std::fs::metadata(log).is_ok_and(|log| log.len() > max) {
        // The answer says whether a reader was in the way. Then the next batch tries again.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}

fn create((name, columns): (&str, &str)) -> String {
    format!("CREATE INDEX IF NOT EXISTS {name} ON builds {columns};")
}

/// Drops the indexes for lists before many builds are folded. Sorting all builds once at the end
/// costs a fraction of inserting each into three trees.
pub(super) fn drop_list_indexes(connection: &Connection) -> rusqlite::Result<()> {
    let drops = LIST_INDEXES.map(|(name, _)| format!("DROP INDEX IF EXISTS {name};")).concat();
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {drops} COMMIT;"))
}

/// Makes the missing indexes, each in a transaction of its own. After a crash in between, the next
/// start makes the others.
pub(super) fn make_list_indexes(connection: &Connection) -> rusqlite::Result<()> {
    LIST_INDEXES.into_iter().try_for_each(|index| connection.execute_batch(&create(index)))
}

/// Returns whether all of them are there.
pub(super) fn has_list_indexes(connection: &Connection) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1)",
    )?;
    for (name, _) in LIST_INDEXES {
        if !statement.query_row([name], |row| row.get(0))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens the file for one reader.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, ProjectionError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        settled(&connection)?;
        connection.execute_batch(&format!("PRAGMA cache_size = -{READER_CACHE_KIB};"))?;
        Ok(connection)
    };
    open().map_err(refused(path))
}
