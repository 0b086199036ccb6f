// SPDX-License-Identifier: Apache-2.0

//! A bounded cache of small JSON records: one file for each record, and memory in front of it.
//!
//! Records save work and nothing else. A missing, truncated, changed or misnamed file is a miss,
//! never an error, and so is a deleted directory. The processes of a machine share a directory
//! without a lock: a file is written under a temporary name and renamed, the last writer wins, and
//! no record refers to another. An embedded database would bring locks, recovery and a file format
//! for data that anybody may delete at any time.

mod key;

use std::collections::HashMap;
use std::fs::{File, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tempfile::NamedTempFile;

pub use key::RecordKey;

/// The bounds of a record cache.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The number of records on disk. Between two sweeps there may be a sixteenth more.
    pub files: usize,
    /// The number of records in memory.
    pub in_memory: usize,
}

/// Records of one kind, by key.
#[derive(Debug)]
pub struct RecordCache<T> {
    /// `None` if nothing is kept beyond this process.
    directory: Option<PathBuf>,
    bounds: Bounds,
    memory: Mutex<Memory<T>>,
    writes: AtomicUsize,
}

#[derive(Debug)]
struct Memory<T> {
    records: HashMap<Digest, Remembered<T>>,
    /// The number of uses so far.
    clock: u64,
}

#[derive(Debug)]
struct Remembered<T> {
    record: T,
    used: u64,
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    checksum: Digest,
    record: T,
}

impl<T: Clone + Serialize + DeserializeOwned> RecordCache<T> {
    /// Opens a directory, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// When the directory cannot be created.
    pub fn open(directory: PathBuf, bounds: Bounds) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self::new(Some(directory), bounds))
    }

    /// Makes a cache in a directory that need not exist yet, or in memory alone. A missing directory
    /// is created with the first record.
    #[must_use]
    pub fn new(directory: Option<PathBuf>, bounds: Bounds) -> Self {
        let memory = Mutex::new(Memory { records: HashMap::new(), clock: 0 });
        Self { directory, bounds, memory, writes: AtomicUsize::new(0) }
    }

    /// Returns a record. Reads the disk only if the record is not in memory.
    pub fn get(&self, key: Digest) -> Option<T> {
        if let Some(record) = self.memory().get(key) {
            return Some(record);
        }
        let file = File::open(path(self.directory.as_ref()?, key)).ok()?;
        let sealed: Sealed<T> = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
        if checksum(key, &sealed.record) != sealed.checksum {
            return None;
        }
        // The time of last use. A failure only makes the sweep less fair.
        let _unused = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        self.put_in_memory(key, sealed.record.clone());
        Some(sealed.record)
    }

    /// Keeps a record. A failure is logged: it only means that some work is done again.
    pub fn put(&self, key: Digest, record: T) {
        if let Some(directory) = &self.directory {
            self.put_on_disk(directory, key, &record);
        }
        self.put_in_memory(key, record);
    }

    fn put_on_disk(&self, directory: &Path, key: Digest, record: &T) {
        if let Err(error) = write(directory, key, record) {
            let path = directory.display();
            match error.kind() {
                // A process may be allowed to read a directory that another one fills.
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    tracing::debug!(%error, %path, "this process may not keep records here");
                }
                _ => tracing::warn!(%error, %path, "failed to keep a record"),
            }
        }
        let between_sweeps = (self.bounds.files / 16).max(1);
        if self.writes.fetch_add(1, Relaxed).is_multiple_of(between_sweeps) {
            let (directory, most) = (directory.to_owned(), self.bounds.files);
            let sweep = move || sweep(&directory, most);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(sweep)),
                Err(_) => sweep(),
            }
        }
    }

    /// Stores a record for this process only.
    pub fn put_in_memory(&self, key: Digest, record: T) {
        self.memory().put(key, record, self.bounds.in_memory);
    }

    /// Removes a record.
    pub fn remove(&self, key: Digest) {
        self.memory().records.remove(&key);
        if let Some(directory) = &self.directory {
            let _already_gone = std::fs::remove_file(path(directory, key));
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory<T>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Memory<T> {
    fn get(&mut self, key: Digest) -> Option<T> {
        self.clock += 1;
        let found = self.records.get_mut(&key)?;
        found.used = self.clock;
        Some(found.record.clone())
    }

    /// Keeps a record. Above the bound, the least recently used half is dropped.
    fn put(&mut self, key: Digest, record: T, most: usize) {
        self.clock += 1;
        self.records.insert(key, Remembered { record, used: self.clock });
        if self.records.len() > most {
            let mut uses: Vec<u64> = self.records.values().map(|kept| kept.used).collect();
            let middle = uses.len() / 2;
            let (_, median, _) = uses.select_nth_unstable(middle);
            let median = *median;
            self.records.retain(|_, kept| kept.used >= median);
        }
    }
}

fn path(directory: &Path, key: Digest) -> PathBuf {
    directory.join(key.hex())
}

fn write(directory: &Path, key: Digest, record: &impl Serialize) -> io::Result<()> {
    let mut temporary = match temporary_file(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)?;
            temporary_file(directory)?
        }
        made => made?,
    };
    let sealed = Sealed { checksum: checksum(key, record), record };
    temporary.write_all(&serde_json::to_vec(&sealed)?)?;
    temporary.persist(path(directory, key)).map_err(|error| error.error)?;
    Ok(())
}

/// Other users may read a record as far as the umask allows: dispatcher and worker share some.
fn temporary_file(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(directory)
}

/// The checksum covers the key too, so that a file under a wrong name is a miss.
fn checksum(key: Digest, record: &impl Serialize) -> Digest {
    let content = serde_json::to_vec(record).expect("a record is always valid JSON");
    Digest::from(Sha256::new().chain_update(key.as_bytes()).chain_update(content))
}

/// Removes the least recently used files if there are more than `most`, and an eighth more, so that
/// the next record does not need a sweep again.
fn sweep(directory: &Path, most: usize) {
    let Ok(listing) = std::fs::read_dir(directory) else { return };
    let used = |listed: std::fs::DirEntry| {
        let metadata = listed.metadata().ok()?;
        Some((metadata.modified().ok()?, listed.path()))
    };
    let mut files: Vec<_> = listing.filter_map(|listed| used(listed.ok()?)).collect();
    if files.len() <= most {
        return;
    }
    files.sort();
    let surplus = files.len() - (most - most / 8);
    for (_, path) in files.into_iter().take(surplus) {
        let _already_gone = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SMALL: Bounds = Bounds { files: 8, in_memory: 4 };

    fn key(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn cache(directory: &Path) -> RecordCache<Vec<String>> {
        RecordCache::open(directory.join("records"), SMALL).expect("it opens")
    }

    #[test]
    fn a_corrupt_record_is_a_miss() {
        let directory = tempfile::tempdir().expect("a directory");
        let record = vec!["team/app".to_owned()];
        cache(directory.path()).put(key(1), record.clone());
        let path = directory.path().join("records").join(key(1).hex());
        let good = std::fs::read(&path).expect("it is there");
        assert_eq!(cache(directory.path()).get(key(1)), Some(record.clone()));
        let changed = String::from_utf8(good.clone()).expect("JSON").replace("team", "meat");
        for bad in [&good[..good.len() - 1], b"", b"{}", changed.as_bytes()] {
            std::fs::write(&path, bad).expect("it can be written");
            assert_eq!(cache(directory.path()).get(key(1)), None, "{bad:?}");
        }
        std::fs::write(directory.path().join("records").join(key(2).hex()), &good)
            .expect("written");
        assert_eq!(cache(directory.path()).get(key(2)), None, "another's record");
        let cache = cache(directory.path());
        cache.put(key(1), record.clone());
        assert_eq!(cache.get(key(1)), Some(record));
    }

    #[test]
    fn memory_and_disk_are_bounded_and_the_oldest_use_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let one = cache(directory.path());
        let files = directory.path().join("records");
        for number in 0..9 {
            one.put(key(number), Vec::new());
            let age = Duration::from_secs(u64::from(100 - number));
            let file = File::open(files.join(key(number).hex())).expect("it is there");
            let used = SystemTime::now() - age;
            file.set_times(FileTimes::new().set_modified(used)).expect("it can be set");
            assert!(one.memory().records.len() <= SMALL.in_memory);
        }
        // Another process uses it now, so it is no longer among the oldest.
        assert!(cache(directory.path()).get(key(2)).is_some());
        // The last sweep left room for one. The other is one too many.
        one.put(key(9), Vec::new());
        one.put(key(10), Vec::new());
        let count = std::fs::read_dir(&files).expect("a listing").count();
        assert!(count <= SMALL.files, "{count}");
        let fresh = cache(directory.path());
        let left: Vec<u32> = (0..11).filter(|number| fresh.get(key(*number)).is_some()).collect();
        assert_eq!(left, [2, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_directory_that_was_deleted_is_made_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        std::fs::remove_dir_all(directory.path().join("records")).expect("it can be removed");
        assert_eq!(cache.get(key(1)), None);
        cache.put(key(1), Vec::new());
        assert!(directory.path().join("records").join(key(1).hex()).exists());
    }

    #[test]
    fn what_is_in_memory_needs_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        cache.put(key(1), vec!["x".to_owned()]);
        std::fs::remove_dir_all(directory.path()).expect("it can be removed");
        assert_eq!(cache.get(key(1)), Some(vec!["x".to_owned()]));
    }
}
