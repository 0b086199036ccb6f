// SPDX-License-Identifier: Apache-2.0

//! An archive that is written from the input, and perhaps damaged. Bytes alone rarely get past the
//! checksums; this target starts behind them.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use slipway_artifact::testing::{TestArchive, TestEntry, deflated, stored};
use slipway_fuzz::archive;

#[derive(Debug, Arbitrary)]
struct Input {
    files: Vec<File>,
    prefix: Vec<u8>,
    absolute_offsets: bool,
    comment: Vec<u8>,
    zip64: bool,
    /// Bytes to put in other places, which count from the end: there the structure is.
    damage: Vec<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
struct File {
    directory: Option<u8>,
    content: Vec<u8>,
    is_deflated: bool,
    is_described: bool,
    zip64: bool,
    local_extra: Vec<u8>,
}

impl File {
    /// The number in its name makes it one of its kind.
    fn entry(&self, number: usize) -> TestEntry {
        let name = match self.directory {
            Some(directory) => format!("d{directory}/{number}"),
            None => format!("f{number}"),
        };
        let make = if self.is_deflated { deflated } else { stored };
        TestEntry {
            flags: if self.is_described { 8 } else { 0 },
            zip64: self.zip64,
            local_extra: self.local_extra.iter().copied().take(1000).collect(),
            ..make(&name, &self.content)
        }
    }
}

/// Without the first letter of every signature, so that nothing in it is taken for a record.
fn harmless(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| *byte != b'P').take(1000).collect()
}

fuzz_target!(|input: Input| {
    let written = TestArchive {
        entries: (0..).zip(&input.files).map(|(number, file)| file.entry(number)).collect(),
        prefix: harmless(&input.prefix),
        absolute_offsets: input.absolute_offsets,
        comment: harmless(&input.comment),
        zip64: input.zip64,
        claimed_count: None,
    };
    let mut bytes = written.bytes();
    let length = bytes.len();
    for (back, value) in &input.damage {
        bytes[length - 1 - usize::from(*back) % length] = *value;
    }
    let archive = archive::check(&bytes);
    if !input.damage.is_empty() {
        return;
    }
    let archive = archive.expect("an honest archive is accepted");
    assert_eq!(archive.entries().len(), input.files.len());
    for (entry, file) in archive.entries().iter().zip(&input.files) {
        let content = archive.read_to_vec(&bytes, entry, file.content.len());
        assert_eq!(content.expect("an honest entry is read"), file.content);
    }
});
