// SPDX-License-Identifier: Apache-2.0

//! Any bytes as an executable.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_artifact::elf::{self, testing::TestElf};
use slipway_artifact::{InspectError, inspect};
use slipway_fuzz::seeds;
use slipway_proto::artifact::ElfFacts;

fuzz_target!(
    init: seeds::write(inputs()),
    |bytes: &[u8]| {
        let file = [elf::MAGIC.as_slice(), bytes].concat();
        let Some(facts) = read(&file) else { return };
        assert_eq!(read(&file).as_ref(), Some(&facts), "it was read in two ways");
        if let Some(interpreter) = &facts.interpreter {
            assert!(interpreter.starts_with('/') && interpreter.len() <= 4096);
            assert!(!interpreter.contains('\0'));
        }
        // What is appended, as by a tool that packs data behind a program, changes nothing.
        assert_eq!(read(&[&file[..], b"appended"].concat()).as_ref(), Some(&facts));
        // What is cut off is noticed, or was no part of the program.
        for length in [file.len() / 4, file.len() / 2, file.len() - 1] {
            let cut = read(&file[..length]);
            assert!(cut.is_none_or(|cut| cut == facts), "cut to {length}, it is another program");
        }
    }
);

fn read(bytes: &[u8]) -> Option<ElfFacts> {
    let facts = match elf::inspect(&bytes) {
        Ok(facts) => Some(facts),
        Err(InspectError::Invalid(_)) => None,
        Err(InspectError::Read(error)) => panic!("memory could not be read: {error}"),
    };
    assert_eq!(inspect(&bytes, "program").is_ok(), facts.is_some(), "the two disagree");
    facts
}

fn inputs() -> Vec<(String, Vec<u8>)> {
    let mut inputs = Vec::new();
    for (machine, wide, big) in [(62, true, false), (3, false, false), (22, true, true)] {
        let mut elf = TestElf { wide, big, machine, ..TestElf::executable() };
        inputs.push((format!("static-{machine}"), elf.bytes()));
        elf.file_type = 3;
        elf.segments.push((3, b"/lib/ld.so\0".to_vec()));
        let dynamic = elf.dynamic(&[(14, 7), (0x6fff_fffb, 0x0800_0000)]);
        elf.segments.push((2, dynamic));
        inputs.push((format!("dynamic-{machine}"), elf.bytes()));
    }
    // The target puts the first four bytes in front.
    inputs.into_iter().map(|(name, bytes)| (name, bytes[elf::MAGIC.len()..].to_vec())).collect()
}
