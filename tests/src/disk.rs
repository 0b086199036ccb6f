// SPDX-License-Identifier: Apache-2.0

//! Disks that fill up, and disks whose machine loses power.
//!
//! Both are mounted, which needs root and a system that permits it. Callers check `available`
//! first, and skip the test with a message if it is not.

use std::fs::File;
use std::io::{Error, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::process::command;

const MEBIBYTE: u64 = 1024 * 1024;
/// Enough for an ext4 with a journal.
const SMALLEST_POWER_DISK_MIB: u64 = 16;
/// How many copies of a medium are tried before it counts as never at rest.
const MAX_COPIES: u32 = 200;
const COPY_INTERVAL: Duration = Duration::from_millis(20);

/// A disk of a few MiB in memory.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Mount,
}

impl SmallDisk {
    /// Returns whether such disks can be mounted here.
    ///
    /// # Panics
    ///
    /// When there is no directory for temporary files.
    #[must_use]
    pub fn available() -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        Self::try_mount(directory.path(), 1).is_ok()
    }

    /// Mounts an empty disk on a directory, which is made.
    ///
    /// # Panics
    ///
    /// When the system does not permit it.
    #[must_use]
    pub fn mount(directory: &Path, mebibytes: u64) -> Self {
        Self::try_mount(directory, mebibytes).expect("a small disk can be mounted")
    }

    fn try_mount(directory: &Path, mebibytes: u64) -> Result<Self, Error> {
        std::fs::create_dir_all(directory)?;
        let options = format!("size={mebibytes}m");
        run(command("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory))?;
        Ok(Self { mount: Mount { directory: directory.to_owned() } })
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount.directory
    }

    /// Writes a file until the disk is completely full.
    ///
    /// # Panics
    ///
    /// When the disk refuses for another reason.
    pub fn fill(&self) {
        let path = self.filling();
        let file = File::options().create(true).append(true).open(path);
        let mut file = file.expect("the file can be made");
        let zeros = vec![0; 64 * 1024];
        loop {
            match file.write(&zeros) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                other => panic!("the disk is not full and takes nothing: {other:?}"),
            }
        }
    }

    /// Removes what [`SmallDisk::fill`] wrote.
    ///
    /// # Panics
    ///
    /// When the disk was not filled.
    pub fn free(&self) {
        std::fs::remove_file(self.filling()).expect("the disk was filled");
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }
}

/// A disk of a machine that can lose power, and with it everything that was not synced.
///
/// It is an ext4 in a file, the medium, to which the system writes without its own cache.
#[derive(Debug)]
pub struct PowerDisk {
    mount: Mount,
    /// The device ends with the mount.
    device: String,
    medium: PathBuf,
}

impl PowerDisk {
    /// Returns whether such disks can be mounted here.
    ///
    /// # Panics
    ///
    /// When there is no directory for temporary files.
    #[must_use]
    pub fn available() -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        Self::try_mount(&directory.path().join("disk"), SMALLEST_POWER_DISK_MIB).is_ok()
    }

    /// Mounts an empty disk on a directory, which is made. The medium is next to it.
    ///
    /// # Panics
    ///
    /// When the system does not permit it.
    #[must_use]
    pub fn mount(directory: &Path, mebibytes: u64) -> Self {
        Self::try_mount(directory, mebibytes).expect("a disk can be mounted")
    }

    fn try_mount(directory: &Path, mebibytes: u64) -> Result<Self, Error> {
        let medium = directory.with_extension("medium");
        std::fs::create_dir_all(directory)?;
        File::create(&medium)?.set_len(mebibytes * MEBIBYTE)?;
        // Nothing is left to initialise later, because that would keep the medium busy.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(command("mkfs.ext4").args(["-q", "-F", "-E", options]).arg(&medium))?;
        let device = mount_medium(&medium, directory)?;
        Ok(Self { mount: Mount { directory: directory.to_owned() }, device, medium })
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount.directory
    }

    /// Lets the machine lose power and come back. The disk then holds, in the same place, what had
    /// reached the medium. The processes that use the disk must have been killed.
    ///
    /// # Panics
    ///
    /// When a process still uses the disk, or the medium does not come to rest.
    pub fn power_loss(&mut self) {
        let copy = self.medium.with_extension("copy");
        self.copy_medium(&copy);
        // The rest of the cache goes to the old medium, which is then discarded.
        run(command("umount").arg(self.path())).expect("no process uses the disk");
        std::fs::rename(&copy, &self.medium).expect("the copy takes the medium's place");
        self.device = mount_medium(&self.medium, self.path()).expect("the disk can be mounted");
    }

    /// Copies the medium as it is at one moment. A copy during which the system wrote may match no
    /// moment at all, and is made again.
    fn copy_medium(&self, copy: &Path) {
        for _ in 0..MAX_COPIES {
            let before = self.writes_if_at_rest();
            run(command("cp").arg("--sparse=always").arg(&self.medium).arg(copy))
                .expect("the medium can be copied");
            if before.is_some() && before == self.writes_if_at_rest() {
                return;
            }
            thread::sleep(COPY_INTERVAL);
        }
        panic!("{} does not come to rest", self.medium.display());
    }

    /// Returns how often the medium was written to, unless it is being written to.
    fn writes_if_at_rest(&self) -> Option<u64> {
        let path = format!("/sys/block/{}/stat", self.device);
        let line = std::fs::read_to_string(path).expect("the device is there");
        let numbers: Vec<u64> =
            line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        // See the kernel's documentation, "Block layer statistics in /sys/block/<dev>/stat".
        let (writes, in_flight) = (numbers[4], numbers[8]);
        (in_flight == 0).then_some(writes)
    }
}

/// Mounts a medium and returns the name of the device between, which goes away with the mount.
fn mount_medium(medium: &Path, directory: &Path) -> Result<String, Error> {
    let arguments = ["--direct-io=on", "--show", "--find"];
    let device = run(command("losetup").args(arguments).arg(medium))?;
    let mounted = run(command("mount").args(["-t", "ext4", &device]).arg(directory));
    // While the disk is mounted, this only makes the device end with the mount.
    run(command("losetup").args(["--detach", &device]))?;
    mounted?;
    Ok(device.trim_start_matches("/dev/").to_owned())
}

/// Something mounted, until it is dropped.
#[derive(Debug)]
struct Mount {
    directory: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that still uses the mount keeps it, hidden, until it ends.
        let _already_gone = run(command("umount").arg("--lazy").arg(&self.directory));
    }
}

fn run(command: &mut Command) -> Result<String, Error> {
    let output = command.output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Error::other(format!("{command:?}: {}", errors.trim_end())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
