// SPDX-License-Identifier: Apache-2.0

//! The directory in which `slipway dev` keeps everything, and the lock on it.
//!
//! The lock belongs to the open file, so it is gone after a crash. nats-server holds it too,
//! because its standard input is the lock file: a second server on the same streams would ruin
//! them, even if the first one is only an orphan.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DevError;

/// How long to wait for the nats-server of a killed `slipway dev`, which ends soon after it.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// How long to wait for a `slipway dev` that still runs, which may be about to end.
const HOLDER_GRACE: Duration = Duration::from_secs(1);

/// How often to look.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The locked directory.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    pub(super) async fn open(path: PathBuf) -> Result<Self, DevError> {
        let failed = |source| DevError::DataDir { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        // Absolute, because another process gets it and people see it.
        let path = path.canonicalize().map_err(failed)?;
        let failed = |source| DevError::DataDir { path: path.clone(), source };
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(failed)?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let mut holder = String::new();
            lock.rewind().and_then(|()| lock.read_to_string(&mut holder)).map_err(failed)?;
            let holder = holder.trim().to_owned();
            let grace = if is_running(&holder) { HOLDER_GRACE } else { ORPHAN_GRACE };
            if since.elapsed() > grace {
                return Err(DevError::Locked { path, holder });
            }
            sleep(LOCK_RETRY_INTERVAL).await;
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { path, lock })
    }

    /// Returns the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the lock as a file that another process can hold as well.
    pub(super) fn share_lock(&self) -> Result<File, DevError> {
        self.lock
            .try_clone()
            .map_err(|source| DevError::DataDir { path: self.path.clone(), source })
    }
}

/// Returns whether a process of that id runs; `false` if that cannot be found out.
fn is_running(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // proc(5): the state follows the name, which is in parentheses and may hold parentheses.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    !state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_used_by_one_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let first = DataDir::open(path.clone()).await.expect("it is free");
        let second = DataDir::open(path.clone()).await.expect_err("it is taken");
        assert!(
            matches!(&second, DevError::Locked { holder, .. } if *holder == std::process::id().to_string()),
            "{second}"
        );
        drop(first);
        DataDir::open(path).await.expect("it is free again");
        assert!(is_running(&std::process::id().to_string()));
        assert!(!is_running("") && !is_running("4194305"));
    }

    #[tokio::test]
    async fn the_lock_is_held_as_long_as_anybody_holds_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = DataDir::open(directory.path().to_owned()).await.expect("it is free");
        let shared = first.share_lock().expect("a file");
        drop(first);
        DataDir::open(directory.path().to_owned()).await.expect_err("it is still taken");
        drop(shared);
    }
}
