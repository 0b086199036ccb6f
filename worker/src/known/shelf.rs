// SPDX-License-Identifier: Apache-2.0

//! A directory of small records, each a file of its own, with memory in front of it.
//!
//! A file holds JSON and a checksum over key and content; it is written under a temporary name
//! and renamed. There is no lock: whoever writes last wins, and every record stands for itself. A
//! file that is missing, cut short, changed or under another's name is a miss, never an error,
//! and so is a directory that somebody deleted.

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tempfile::NamedTempFile;

/// How many records are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// On disk; somewhat more between two sweeps.
    pub(super) files: usize,
    /// In memory.
    pub(super) in_memory: usize,
}

/// Records of one kind by their keys.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    directory: PathBuf,
    bounds: Bounds,
    memory: Mutex<Memory<T>>,
    writes: AtomicUsize,
}

#[derive(Debug)]
struct Memory<T> {
    records: HashMap<Digest, Remembered<T>>,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Remembered<T> {
    record: T,
    used: u64,
}

/// A file's content.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    checksum: Digest,
    record: T,
}

impl<T: Clone + Serialize + DeserializeOwned> Shelf<T> {
    /// Opens a directory, which is made if it is missing.
    pub(super) fn open(directory: PathBuf, bounds: Bounds) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let memory = Mutex::new(Memory { records: HashMap::new(), clock: 0 });
        Ok(Self { directory, bounds, memory, writes: AtomicUsize::new(0) })
    }

    /// Returns a record: without touching the disk if it was used lately.
    pub(super) fn get(&self, key: Digest) -> Option<T> {
        if let Some(record) = self.memory().get(key) {
            return Some(record);
        }
        let file = File::open(self.path(key)).ok()?;
        let sealed: Sealed<T> = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
        if checksum(key, &sealed.record) != sealed.checksum {
            return None;
        }
        // When it was used last; a failure only makes the sweep less fair.
        let _unused = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        self.put_in_memory(key, sealed.record.clone());
        Some(sealed.record)
    }

    /// Keeps a record. A failure costs only time later.
    pub(super) fn put(&self, key: Digest, record: T) {
        if let Err(error) = self.write(key, &record) {
            let path = self.directory.display();
            tracing::warn!(%error, %path, "a record could not be kept; the work will be done again");
        }
        self.put_in_memory(key, record);
        let between_sweeps = (self.bounds.files / 16).max(1);
        if self.writes.fetch_add(1, Relaxed).is_multiple_of(between_sweeps) {
            let (directory, most) = (self.directory.clone(), self.bounds.files);
            let sweep = move || sweep(&directory, most);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(sweep)),
                Err(_) => sweep(),
            }
        }
    }

    /// Keeps a record for this process alone.
    pub(super) fn put_in_memory(&self, key: Digest, record: T) {
        self.memory().put(key, record, self.bounds.in_memory);
    }

    /// Removes a record.
    pub(super) fn remove(&self, key: Digest) {
        self.memory().records.remove(&key);
        let _already_gone = std::fs::remove_file(self.path(key));
    }

    fn write(&self, key: Digest, record: &T) -> io::Result<()> {
        let mut temporary = match NamedTempFile::new_in(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.directory)?;
                NamedTempFile::new_in(&self.directory)?
            }
            made => made?,
        };
        let sealed = Sealed { checksum: checksum(key, record), record };
        temporary.write_all(&serde_json::to_vec(&sealed)?)?;
        temporary.persist(self.path(key)).map_err(|error| error.error)?;
        Ok(())
    }

    fn path(&self, key: Digest) -> PathBuf {
        self.directory.join(key.hex())
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

    /// Keeps a record; above the bound, the half that was not used for longest goes.
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

/// Covers the key too, so that a file under a wrong name is no record.
fn checksum(key: Digest, record: &impl Serialize) -> Digest {
    let content = serde_json::to_vec(record).expect("a record is always valid JSON");
    Digest::from(Sha256::new().chain_update(key.as_bytes()).chain_update(content))
}

/// Removes the files that were not used for longest if there are more than `most`, with some more
/// so that the next sweep is not due at once.
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

    fn shelf(directory: &Path) -> Shelf<Vec<String>> {
        Shelf::open(directory.join("shelf"), SMALL).expect("it opens")
    }

    #[test]
    fn a_corrupt_record_is_a_miss() {
        let directory = tempfile::tempdir().expect("a directory");
        let record = vec!["team/app".to_owned()];
        shelf(directory.path()).put(key(1), record.clone());
        let path = directory.path().join("shelf").join(key(1).hex());
        let good = std::fs::read(&path).expect("it is there");
        assert_eq!(shelf(directory.path()).get(key(1)), Some(record.clone()));
        let changed = String::from_utf8(good.clone()).expect("JSON").replace("team", "meat");
        for bad in [&good[..good.len() - 1], b"", b"{}", changed.as_bytes()] {
            std::fs::write(&path, bad).expect("it can be written");
            assert_eq!(shelf(directory.path()).get(key(1)), None, "{bad:?}");
        }
        std::fs::write(directory.path().join("shelf").join(key(2).hex()), &good).expect("written");
        assert_eq!(shelf(directory.path()).get(key(2)), None, "another's record");
        let shelf = shelf(directory.path());
        shelf.put(key(1), record.clone());
        assert_eq!(shelf.get(key(1)), Some(record));
    }

    #[test]
    fn memory_and_disk_are_bounded_and_the_oldest_use_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let one = shelf(directory.path());
        let files = directory.path().join("shelf");
        for number in 0..9 {
            one.put(key(number), Vec::new());
            let age = Duration::from_secs(u64::from(100 - number));
            let file = File::open(files.join(key(number).hex())).expect("it is there");
            let used = SystemTime::now() - age;
            file.set_times(FileTimes::new().set_modified(used)).expect("it can be set");
            assert!(one.memory().records.len() <= SMALL.in_memory);
        }
        // Used now, by another process, so that it is not among the oldest any more.
        assert!(shelf(directory.path()).get(key(2)).is_some());
        // One for the room that the last sweep left, one too many.
        one.put(key(9), Vec::new());
        one.put(key(10), Vec::new());
        let count = std::fs::read_dir(&files).expect("a listing").count();
        assert!(count <= SMALL.files, "{count}");
        let fresh = shelf(directory.path());
        let left: Vec<u32> = (0..11).filter(|number| fresh.get(key(*number)).is_some()).collect();
        assert_eq!(left, [2, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_directory_that_was_deleted_is_made_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let shelf = shelf(directory.path());
        std::fs::remove_dir_all(directory.path().join("shelf")).expect("it can be removed");
        assert_eq!(shelf.get(key(1)), None);
        shelf.put(key(1), Vec::new());
        assert!(directory.path().join("shelf").join(key(1).hex()).exists());
    }

    #[test]
    fn what_is_in_memory_needs_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let shelf = shelf(directory.path());
        shelf.put(key(1), vec!["x".to_owned()]);
        std::fs::remove_dir_all(directory.path()).expect("it can be removed");
        assert_eq!(shelf.get(key(1)), Some(vec!["x".to_owned()]));
    }
}
