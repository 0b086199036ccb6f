// SPDX-License-Identifier: Apache-2.0

//! Any bytes as an executable.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_artifact::elf::{self, testing::TestElf};
use slipway_artifact::{InspectError, inspect};
use slipway_fuzz::seeds;
use slipway_proto::ArtifactFacts;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;

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
        let names = facts.libraries.iter().chain(&facts.versions);
        for name in names.chain(&facts.search_path).chain(&facts.linux) {
            assert!(!name.is_empty() && name.len() <= 4096, "{name:?}");
            assert!(!name.chars().any(char::is_control), "{name:?} disturbs a terminal");
        }
        assert!(facts.libraries.len() <= 1024 && facts.versions.len() <= 1024);
        assert!(facts.versions.is_sorted(), "{:?}", facts.versions);
        assert!(facts.x86_64_level.is_none_or(|level| (2..=4).contains(&level)));
        // Its platform can be written into a request and read from one.
        let platform = facts.platform();
        assert_eq!(platform.to_string().parse(), Ok(platform));
        // The catalogue answers whatever an executable asks for.
        let facts_of_it = ArtifactFacts::Binary(facts.clone());
        for base_replaced in [false, true] {
            let _answer = Catalogue::default().choose("auto", &facts_of_it, base_replaced);
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
        elf.segments.pop();
        let libc = ["GLIBC_2.2.5", "GLIBC_2.34"].as_slice();
        elf.link(&[("libz.so.1", &[]), ("libc.so.6", libc)], Some("$ORIGIN/lib"));
        inputs.push((format!("linked-{machine}"), elf.bytes()));
        let tag = elf.words(&[0, 6, 1, 0]);
        elf.note("GNU", 1, &tag);
        let level = elf.words(&[0xc000_8002, 4, 7, 0]);
        elf.note("GNU", 5, &level);
        inputs.push((format!("noted-{machine}"), elf.bytes()));
    }
    let mut arm = TestElf { machine: 40, wide: false, ..TestElf::executable() };
    // `Tag_CPU_arch` is 6, in the section that the GNU assembler writes.
    arm.attributes = b"A\x11\0\0\0aeabi\0\x01\x07\0\0\0\x06\x06".to_vec();
    inputs.push(("arm".to_owned(), arm.bytes()));
    let mut record = b"\xff Go buildinf:\x08\x02".to_vec();
    record.resize(32, 0);
    record.extend_from_slice(b"\x02go\x0dbuild\tGOARM=6");
    let mut go = TestElf { machine: 40, wide: false, ..TestElf::executable() };
    go.segments.insert(0, (1, record));
    inputs.push(("go".to_owned(), go.bytes()));
    // The target puts the first four bytes in front.
    inputs.into_iter().map(|(name, bytes)| (name, bytes[elf::MAGIC.len()..].to_vec())).collect()
}
