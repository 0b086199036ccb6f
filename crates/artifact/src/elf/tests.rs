// SPDX-License-Identifier: Apache-2.0

use super::dynamic::{DF_1_PIE, DT_FLAGS_1, DT_SONAME};
use super::testing::TestElf;
use super::*;

#[track_caller]
fn refused(elf: &TestElf, what: &str) {
    match inspect(&elf.bytes()) {
        Err(InspectError::Invalid(invalid)) => {
            assert_eq!(invalid.code, Code::UnsupportedExecutable, "{invalid}");
            assert!(invalid.message.contains(what), "{invalid}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn executables_of_every_processor_are_read() {
    let machines = [
        (Architecture::Amd64, 62, true, false),
        (Architecture::Arm64, 183, true, false),
        (Architecture::Arm, 40, false, false),
        (Architecture::I386, 3, false, false),
        (Architecture::Ppc64le, 21, true, false),
        (Architecture::Riscv64, 243, true, false),
        (Architecture::S390x, 22, true, true),
    ];
    for (architecture, machine, wide, big) in machines {
        let mut elf = TestElf::interpreted(b"/lib/ld.so\0");
        (elf.machine, elf.wide, elf.big) = (machine, wide, big);
        let facts = inspect(&elf.bytes()).expect("it is read");
        assert_eq!(facts, ElfFacts::new(architecture, Some("/lib/ld.so")), "{machine}");
        elf.segments.pop();
        elf.file_type = 2;
        assert_eq!(inspect(&elf.bytes()).expect("it is read").interpreter, None);
    }
}

#[test]
fn the_executable_of_this_test_is_read() {
    let path = std::env::current_exe().expect("a path");
    let source = crate::FileSource::open(&path).expect("it is opened");
    let facts = inspect(&source).expect("it is read");
    assert_eq!(facts.architecture.as_str(), go_name(std::env::consts::ARCH));
    assert!(facts.interpreter.is_some_and(|path| path.contains("/ld-")));
    assert!(facts.libraries.iter().any(|name| name.starts_with("libc.")), "{:?}", facts.libraries);
    let glibc = facts.versions.iter().find(|name| name.starts_with("GLIBC_2."));
    assert!(glibc.is_some(), "{:?}", facts.versions);
}

fn go_name(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[test]
fn a_machine_that_no_image_is_built_for_is_refused() {
    for (machine, wide, big) in [
        (8, false, true),
        (62, false, false),
        (183, true, true),
        (21, true, true),
        (22, false, true),
    ] {
        let elf = TestElf { machine, wide, big, ..TestElf::executable() };
        refused(&elf, "compile it for one of them");
    }
    let mut bytes = TestElf::executable().bytes();
    bytes[5] = 3;
    assert!(inspect(&bytes).expect_err("refused").to_string().contains("byte order"));
}

#[test]
fn what_is_not_an_executable_is_refused() {
    for (file_type, what) in [(1, "object file"), (4, "core dump"), (0, "unknown type")] {
        refused(&TestElf { file_type, ..TestElf::executable() }, what);
    }
    refused(&TestElf { segments: Vec::new(), ..TestElf::executable() }, "program headers");
    refused(&TestElf { entry: 0x9000, ..TestElf::executable() }, "entry point");
    let many = vec![(PT_LOAD, Vec::new()); 257];
    refused(&TestElf { segments: many, ..TestElf::executable() }, "257");
}

#[test]
fn a_shared_library_is_refused_and_a_static_pie_is_not() {
    let mut elf = TestElf { file_type: 3, ..TestElf::executable() };
    assert!(inspect(&elf.bytes()).is_ok(), "a static PIE without a dynamic section");
    refused(&TestElf { entry: 0, file_type: 3, ..TestElf::executable() }, "shared library");
    for (wide, big, machine) in [(true, false, 62), (false, false, 3), (true, true, 22)] {
        (elf.wide, elf.big, elf.machine) = (wide, big, machine);
        let named = elf.dynamic(&[(1, 5), (DT_SONAME, 7)]);
        elf.segments.push((PT_DYNAMIC, named));
        refused(&elf, "shared library");
        elf.segments[1].1 = elf.dynamic(&[(DT_SONAME, 7), (DT_FLAGS_1, DF_1_PIE)]);
        assert!(inspect(&elf.bytes()).is_ok(), "marked as an executable");
        elf.segments[1].1 = elf.dynamic(&[(1, 5)]);
        assert!(inspect(&elf.bytes()).is_ok(), "without a name");
        elf.segments.pop();
    }
    let library = elf.dynamic(&[(DT_SONAME, 7)]);
    let mut runnable = TestElf::interpreted(b"/lib/ld.so\0");
    runnable.segments.push((PT_DYNAMIC, library));
    assert!(inspect(&runnable.bytes()).is_ok(), "a library that can be run, as libc");
}

#[test]
fn an_interpreter_that_is_no_absolute_path_is_refused() {
    let long = [b"/".as_slice(), &[b'x'; 4096], b"\0"].concat();
    for path in [&b""[..], b"\0", b"ld.so\0", b"/lib/ld.so", b"/\xff\0", &long] {
        refused(&TestElf::interpreted(path), "absolute path");
    }
}

#[test]
fn an_executable_cut_anywhere_is_truncated() {
    let bytes = TestElf::interpreted(b"/lib/ld.so\0").bytes();
    for length in 4..bytes.len() {
        let result = inspect(&&bytes[..length]);
        let Err(InspectError::Invalid(invalid)) = result else { panic!("{length}: {result:?}") };
        assert_eq!(invalid.code, Code::Truncated, "{length}: {invalid}");
    }
    // Without section headers the segments show it.
    let mut stripped = bytes.clone();
    stripped[40..48].fill(0);
    stripped[60..62].fill(0);
    for length in 4..bytes.len() - 40 {
        assert!(inspect(&&stripped[..length]).is_err(), "{length}");
    }
    assert!(inspect(&&stripped[..bytes.len() - 40]).is_ok());
}

#[test]
fn libraries_and_their_newest_versions_are_read() {
    for (machine, wide, big) in [(62, true, false), (3, false, false), (22, true, true)] {
        let mut elf = TestElf::interpreted(b"/lib/ld.so\0");
        (elf.machine, elf.wide, elf.big) = (machine, wide, big);
        let libc = ["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.9"].as_slice();
        let libraries = [("libz.so.1", [].as_slice()), ("libc.so.6", libc)];
        elf.link(&libraries, Some("$ORIGIN/lib"));
        let facts = inspect(&elf.bytes()).expect("it is read");
        assert_eq!(facts.libraries, ["libz.so.1", "libc.so.6"], "{machine}");
        assert_eq!(facts.versions, ["GLIBC_2.34"], "{machine}");
        assert_eq!(facts.search_path.as_deref(), Some("$ORIGIN/lib"), "{machine}");
    }
}

#[test]
fn versions_of_several_libraries_are_read() {
    let mut elf = TestElf::interpreted(b"/lib/ld.so\0");
    let libraries: [(&str, &[&str]); 3] = [
        ("libstdc++.so.6", &["GLIBCXX_3.4.32", "CXXABI_1.3.13"]),
        ("libgcc_s.so.1", &["GCC_3.0"]),
        ("libc.so.6", &["GLIBC_2.39", "GLIBC_ABI_DT_RELR"]),
    ];
    elf.link(&libraries, None);
    let facts = inspect(&elf.bytes()).expect("it is read");
    let expected =
        ["CXXABI_1.3.13", "GCC_3.0", "GLIBC_2.39", "GLIBCXX_3.4.32", "GLIBC_ABI_DT_RELR"];
    assert_eq!(facts.versions, expected);
}

#[test]
fn a_dynamic_section_that_does_not_add_up_is_passed_over() {
    let mut elf = TestElf::interpreted(b"/lib/ld.so\0");
    elf.link(&[("libc.so.6", &["GLIBC_2.2.5"])], None);
    let tags = [
        vec![(1, 1), (5, u64::MAX), (10, u64::MAX)],
        vec![(1, 7), (5, 0x1000), (0x6fff_fffe, 0x1000), (0x6fff_ffff, u64::MAX)],
        vec![(1, u64::MAX), (5, 0x3000), (0x6fff_fffe, u64::MAX - 3)],
        vec![(0x6fff_fffe, 0x3000)],
    ];
    for tags in tags {
        let dynamic = elf.dynamic(&tags);
        let last = elf.segments.len() - 1;
        elf.segments[last].1 = dynamic;
        let facts = inspect(&elf.bytes()).expect("it is read");
        assert!(facts.libraries.iter().all(|name| name.is_ascii()), "{:?}", facts.libraries);
    }
}

#[test]
fn executables_of_other_systems_are_refused_by_name() {
    for (os_abi, system) in [(9, "FreeBSD"), (2, "NetBSD"), (12, "OpenBSD"), (77, "EI_OSABI 77")] {
        refused(&TestElf { os_abi, ..TestElf::executable() }, system);
        refused(&TestElf { os_abi, ..TestElf::executable() }, "build it for Linux");
    }
    for os_abi in [0, 3] {
        assert!(inspect(&TestElf { os_abi, ..TestElf::executable() }.bytes()).is_ok());
    }
    for (path, system) in [
        ("/libexec/ld-elf.so.1\0", "FreeBSD"),
        ("/usr/libexec/ld.so\0", "OpenBSD"),
        ("/system/bin/linker64\0", "Android"),
        ("/lib/amd64/ld.so.1\0", "illumos"),
    ] {
        refused(&TestElf::interpreted(path.as_bytes()), system);
    }
    for (owner, kind, system) in
        [("FreeBSD", 1, "FreeBSD"), ("NetBSD", 1, "NetBSD"), ("OpenBSD", 1, "OpenBSD")]
    {
        let mut elf = TestElf::executable();
        elf.note(owner, kind, &[0; 4]);
        refused(&elf, system);
    }
    let mut elf = TestElf::executable();
    let hurd = elf.words(&[1, 0, 0, 0]);
    elf.note("GNU", 1, &hurd);
    refused(&elf, "the Hurd");
}

#[test]
fn a_program_of_go_tells_its_system() {
    let mut elf = TestElf::executable();
    let with = |settings: &str| {
        let mut record = b"\xff Go buildinf:\x08\x02".to_vec();
        record.resize(32, 0);
        for text in ["go1.24", settings] {
            record.push(u8::try_from(text.len()).expect("short"));
            record.extend_from_slice(text.as_bytes());
        }
        record
    };
    elf.segments.push((PT_LOAD, with("path\tx\nbuild\tGOOS=dragonfly\n")));
    // The first segment that can be written to holds the record.
    elf.segments.swap(0, 1);
    refused(&elf, "DragonFly");
    elf.segments[0].1 = with("build\tGOOS=linux\nbuild\tGOARM=6\n");
    (elf.machine, elf.wide) = (40, false);
    let facts = inspect(&elf.bytes()).expect("it is read");
    assert_eq!(facts.platform().to_string(), "linux/arm/v6");
    elf.segments[0].1.truncate(36);
    assert_eq!(inspect(&elf.bytes()).expect("it is read").variant, None, "cut short");
}

/// A section of attributes for `Tag_CPU_arch`, as the GNU assembler writes it.
fn attributes(cpu_arch: u8) -> Vec<u8> {
    let tags = [&[5][..], b"cortex-a8\0", &[6, cpu_arch, 9, 2]].concat();
    let length = |length: usize| u32::try_from(length).expect("short").to_le_bytes();
    let file = [&[1][..], &length(tags.len() + 5), &tags].concat();
    [b"A", &length(file.len() + 10)[..], b"aeabi\0", &file].concat()
}

#[test]
fn the_variant_of_arm_is_what_the_executable_can_run_on() {
    let hard = "/lib/ld-linux-armhf.so.3\0";
    let soft = "/lib/ld-linux.so.3\0";
    let cases: [(&str, Option<u8>, &str); 9] = [
        (hard, None, "linux/arm/v7"),
        (hard, Some(10), "linux/arm/v7"),
        (hard, Some(6), "linux/arm/v6"),
        ("/lib/ld-musl-armhf.so.1\0", Some(8), "linux/arm/v6"),
        (hard, Some(14), "linux/arm/v8"),
        (soft, None, "linux/arm/v5"),
        (soft, Some(10), "linux/arm/v5"),
        ("", Some(4), "linux/arm/v5"),
        ("", None, "linux/arm"),
    ];
    for (interpreter, cpu_arch, platform) in cases {
        let mut elf = TestElf { machine: 40, wide: false, ..TestElf::executable() };
        elf.flags = 0x0500_0400;
        elf.attributes = cpu_arch.map(attributes).unwrap_or_default();
        if !interpreter.is_empty() {
            elf.segments.push((PT_INTERP, interpreter.as_bytes().to_vec()));
        }
        let facts = inspect(&elf.bytes()).expect("it is read");
        assert_eq!(facts.platform().to_string(), platform, "{interpreter} {cpu_arch:?}");
    }
}

#[test]
fn notes_tell_the_level_of_the_processor_and_the_oldest_kernel() {
    let mut elf = TestElf::executable();
    let old = elf.words(&[0, 3, 2, 0]);
    elf.note("GNU", 1, &old);
    let level = elf.words(&[0xc000_8002, 4, 0b111, 0]);
    elf.note("GNU", 5, &level);
    let facts = inspect(&elf.bytes()).expect("it is read");
    assert_eq!((facts.x86_64_level, facts.linux), (Some(3), None));
    let new = elf.words(&[0, 6, 1, 0]);
    elf.note("GNU", 1, &new);
    assert_eq!(inspect(&elf.bytes()).expect("it is read").linux.as_deref(), Some("6.1.0"));
    // A note that promises more than there is ends the search.
    elf.segments.push((PT_NOTE, elf.words(&[4, u64::from(u32::MAX), 1])));
    assert!(inspect(&elf.bytes()).is_ok());
}
