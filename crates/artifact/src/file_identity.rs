// SPDX-License-Identifier: Apache-2.0

//! What a file system says of a file, by which a file that nobody touched is recognised.
//!
//! A digest over the content would be certain, but it is exactly what this saves. The time of change
//! (`ctime`) is part of the identity: only the system sets it, so a program that resets the time of
//! modification after a write is noticed all the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

/// Changes further apart than this get different times. File systems take their times from a clock
/// that moves every 10 ms at worst (Linux, `CONFIG_HZ=100`).
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// A file in one state. As long as its identity is the same, a file has the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    /// The last write, in seconds and nanoseconds since the epoch. Programs can set it.
    modified: (i64, i64),
    /// The last change of the file or its metadata, in the same units. Only the system sets it.
    changed: (i64, i64),
}

impl FileIdentity {
    /// Reads the identity of an open file.
    ///
    /// # Errors
    ///
    /// When the file system does not answer.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns the length of the file, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the number of the device. Machines that share a file system number it differently.
    #[cfg(feature = "store")]
    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// Returns everything but the device: what tells two files of one file system, or two states of
    /// one file, apart.
    #[cfg(feature = "store")]
    pub(crate) fn within_file_system(&self) -> [u64; 6] {
        let [modified, changed] = [self.modified, self.changed]
            .map(|(seconds, nanoseconds)| [seconds, nanoseconds].map(i64::cast_unsigned));
        [self.inode, self.length, modified[0], modified[1], changed[0], changed[1]]
    }

    /// Returns whether every change after `now` gives the file another identity. A last change in
    /// the future says nothing: the clock was set back, and may come by that time again.
    pub(crate) fn is_settled_at(&self, now: SystemTime) -> bool {
        now.duration_since(self.changed()).is_ok_and(|age| age >= CLOCK_STEP)
    }

    fn changed(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.changed;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let at = match seconds {
            0.. => SystemTime::UNIX_EPOCH + whole,
            _ => SystemTime::UNIX_EPOCH - whole,
        };
        at + Duration::from_nanos(nanoseconds.unsigned_abs())
    }
}
