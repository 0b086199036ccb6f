// SPDX-License-Identifier: Apache-2.0

//! Disks that are full, and disks that lose power.

use slipway_tests::disk::{PowerDisk, SmallDisk};

#[test]
fn a_small_disk_fills_and_frees() {
    if !SmallDisk::available() {
        eprintln!("not tried: this system does not permit to mount disks");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("small");
    let disk = SmallDisk::mount(&path, 2);
    std::fs::write(disk.path().join("one"), vec![1; 1024 * 1024]).expect("there is space");
    for _ in 0..2 {
        disk.fill();
        let full = std::fs::write(path.join("two"), "2").expect_err("there is no space");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        disk.free();
        std::fs::write(path.join("two"), "2").expect("there is space again");
        std::fs::remove_file(path.join("two")).expect("it is there");
    }
    drop(disk);
    assert!(!path.join("one").exists(), "it is still mounted");
}

#[test]
fn a_disk_loses_what_was_not_synced_and_keeps_what_was_when_the_power_fails() {
    if !PowerDisk::available() {
        eprintln!("not tried: this system does not permit to mount disks");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("disk");
    let mut disk = PowerDisk::mount(&path, 64);
    for round in ["first", "second"] {
        let (synced, unsynced) = (path.join(format!("{round}-synced")), path.join("unsynced"));
        std::fs::write(&synced, round).expect("it can be written");
        std::fs::File::open(&synced).and_then(|file| file.sync_all()).expect("it can be synced");
        std::fs::write(&unsynced, round).expect("it can be written");
        assert_eq!(std::fs::read_to_string(&unsynced).expect("it is there"), round);
        disk.power_loss();
        assert_eq!(disk.path(), path);
        assert_eq!(std::fs::read_to_string(&synced).expect("it was synced"), round);
        // Perhaps only the name was saved.
        assert_eq!(std::fs::read_to_string(&unsynced).unwrap_or_default(), "");
    }
    assert_eq!(std::fs::read_to_string(path.join("first-synced")).expect("it was synced"), "first");
    drop(disk);
    assert!(!path.join("first-synced").exists(), "it is still mounted");
}
