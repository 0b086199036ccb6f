// SPDX-License-Identifier: Apache-2.0

//! Whole artifacts are recognised, and no bytes make the inspection panic.

use proptest::prelude::*;
use proptest::sample::Index;
use slipway_proto::ArtifactKind;
use slipway_proto::artifact::{ElfFacts, JavaFacts, ServletApi};
use slipway_proto::platform::Architecture;

use super::*;
use crate::InvalidArtifact;
use crate::elf::testing::TestElf;
use crate::testing::{TestArchive, TestEntry, deflated, stored, zip};

fn class(release: u16) -> Vec<u8> {
    let mut bytes = b"\xca\xfe\xba\xbe\0\0".to_vec();
    bytes.extend_from_slice(&(release + 44).to_be_bytes());
    bytes.extend_from_slice(&[7; 500]);
    bytes
}

fn manifest(lines: &str) -> TestEntry {
    deflated("META-INF/MANIFEST.MF", format!("Manifest-Version: 1.0\n{lines}\n").as_bytes())
}

fn plain_jar() -> Vec<u8> {
    zip([
        manifest("Main-Class: com.example.Main"),
        deflated("com/example/Main.class", &class(17)),
        deflated("META-INF/versions/21/com/example/Main.class", &class(21)),
        deflated("module-info.class", &class(25)),
    ])
}

fn spring_boot_jar() -> TestArchive {
    let lines = "Main-Class: org.springframework.boot.loader.launch.JarLauncher\n\
        Spring-Boot-Version: 3.3.1\nSpring-Boot-Classes: BOOT-INF/classes/\nBuild-Jdk-Spec: 21";
    let entries = vec![
        manifest(lines),
        deflated("org/springframework/boot/loader/launch/JarLauncher.class", &class(25)),
        deflated("BOOT-INF/classes/com/example/Main.class", &class(17)),
        stored("BOOT-INF/lib/a.jar", &plain_jar()),
        deflated("BOOT-INF/layers.idx", b"- \"application\":\n"),
    ];
    TestArchive { entries, ..TestArchive::default() }
}

fn war() -> Vec<u8> {
    zip([
        deflated("index.jsp", b"<%= 1 %>"),
        deflated("WEB-INF/web.xml", b"<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\">"),
        deflated("WEB-INF/classes/Servlet.class", &class(11)),
        deflated("other/Newer.class", &class(21)),
    ])
}

fn refusal(bytes: &[u8], filename: &str) -> InvalidArtifact {
    match inspect(&bytes, filename) {
        Err(InspectError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_jar_is_read() {
    let told_by = Some("`com/example/Main.class`".into());
    let expected = JarFacts {
        java_release: Some(17),
        java: JavaFacts { told_by, ..JavaFacts::default() },
        main_class: Some("com.example.Main".into()),
        ..JarFacts::default()
    };
    for filename in ["app.jar", "APP.JAR", "app", "app.zip", "jar"] {
        let facts = inspect(&plain_jar(), filename).expect("it is read");
        assert_eq!(facts, ArtifactFacts::Jar(expected.clone()), "{filename}");
    }
}

#[test]
fn a_spring_boot_archive_is_read_with_and_without_a_script_in_front() {
    let mut archive = spring_boot_jar();
    for prefix in [&b""[..], b"#!/bin/bash\nexit 0\n"] {
        archive.prefix = prefix.to_vec();
        let ArtifactFacts::Jar(facts) = inspect(&archive.bytes(), "app.jar").expect("read") else {
            panic!("not a JAR");
        };
        assert_eq!(facts.java_release, Some(25), "the launcher's");
        let version = Some("3.3.1".into());
        assert_eq!(facts.spring_boot, Some(SpringBootFacts { version, layers_index: true }));
    }
    archive.entries.remove(1);
    let facts = inspect(&archive.bytes(), "app.jar").expect("read");
    assert_eq!(facts.java_release(), Some(17), "its own classes'");
    archive.entries.remove(1);
    let facts = inspect(&archive.bytes(), "app.jar").expect("read");
    assert_eq!(facts.java_release(), Some(17), "Spring Boot's");
}

#[test]
fn where_nothing_else_tells_the_release_the_manifest_does() {
    let bytes = zip([manifest("Main-Class: M\nBuild-Jdk-Spec: 21")]);
    let facts = inspect(&bytes, "app.jar").expect("read");
    assert_eq!(facts.java_release(), Some(21));
    let java = facts.java().expect("it is a JAR");
    assert_eq!(java.told_by.as_deref(), Some("`Build-Jdk-Spec` of its manifest"));
}

#[test]
fn only_what_is_unpacked_must_be_one_tree() {
    let twice = |more: &[TestEntry]| {
        zip(more.iter().cloned().chain([stored("a", b"1"), stored("a", b"2")]))
    };
    assert!(inspect(&twice(&[manifest("Main-Class: M")]), "app.jar").is_ok());
    let refused = refusal(&twice(&[manifest("Spring-Boot-Version: 3.3.1")]), "app.jar");
    assert_eq!(refused.code, Code::DuplicateEntry);
    let web = stored("WEB-INF/web.xml", b"");
    assert_eq!(refusal(&twice(std::slice::from_ref(&web)), "a.war").code, Code::DuplicateEntry);
    let executable = twice(&[manifest("Main-Class: M"), web]);
    let ArtifactFacts::War(facts) = inspect(&executable, "a.war").expect("it starts by itself")
    else {
        panic!("not a WAR");
    };
    assert!(facts.not_unpackable.is_some_and(|why| why.contains("twice")));
}

#[test]
fn a_war_that_starts_by_itself_is_a_jar_under_such_a_name() {
    let bytes = zip([
        manifest("Main-Class: Launcher\nSpring-Boot-Version: 2.7.18"),
        deflated("Launcher.class", &class(11)),
        deflated("WEB-INF/classes/A.class", &class(8)),
        stored("WEB-INF/lib/a.jar", &zip([deflated("B.class", &class(17))])),
        stored("WEB-INF/lib-provided/b.jar", &zip([deflated("C.class", &class(21))])),
    ]);
    let facts = inspect(&bytes, "app.jar").expect("it starts by itself");
    let ArtifactFacts::War(war) = &facts else { panic!("not a WAR") };
    assert_eq!((war.java_release, war.java.own_release), (Some(17), Some(8)));
    assert_eq!(war.servlet_api, Some(ServletApi::Javax));
    let jar = war.as_jar().expect("it starts by itself");
    assert_eq!((jar.java_release, jar.java.own_release), (Some(21), Some(11)));
    assert_eq!(jar.warnings, [""; 0]);
    let named = facts.named("app.jar").expect("it is one");
    assert_eq!(named.kind(), ArtifactKind::Jar);
}

#[test]
fn a_war_is_read() {
    let ArtifactFacts::War(facts) = inspect(&war(), "app.war").expect("read") else {
        panic!("not a WAR");
    };
    assert_eq!((facts.java_release, facts.servlet_api), (Some(11), Some(ServletApi::Jakarta)));
    assert_eq!(facts.servlet.told_by.as_deref(), Some("`WEB-INF/web.xml`"));
    assert!(facts.executable.is_none() && facts.not_unpackable.is_none());
}

#[test]
fn an_executable_is_read() {
    let expected = ElfFacts::new(Architecture::Amd64, None);
    let bytes = TestElf::executable().bytes();
    for filename in ["server", "server.bin", "server-1.2"] {
        let facts = inspect(&bytes, filename).expect("it is read");
        assert_eq!(facts, ArtifactFacts::Binary(expected.clone()));
    }
}

#[test]
fn a_name_that_promises_another_kind_is_refused() {
    let executable = TestElf::executable().bytes();
    for (bytes, filename, what) in [
        (war(), "app.jar", "is a WAR"),
        (war(), "App.Jar", "is a WAR"),
        (plain_jar(), "app.war", "is a JAR"),
        (executable.clone(), "app.jar", "is a native executable"),
        (executable, "app.war", "is a native executable"),
    ] {
        let invalid = refusal(&bytes, filename);
        assert_eq!(invalid.code, Code::KindMismatch);
        assert!(invalid.message.contains(what), "{invalid}");
    }
}

#[test]
fn what_is_something_else_is_named_and_an_archive_behind_a_script_is_taken() {
    let script = refusal(b"#!/bin/sh\nexec java -jar app.jar\n", "run.sh");
    assert_eq!(script.code, Code::NotAnArtifact);
    assert!(script.message.contains("is a script"), "{script}");
    let behind = [b"#!/bin/sh\nexit 0\n".as_slice(), &plain_jar()].concat();
    assert!(inspect(&behind, "app.jar").is_ok());
}

#[test]
fn what_is_neither_archive_nor_executable_is_refused() {
    let text = b"just some text that is not an archive".as_slice();
    for bytes in [b"".as_slice(), b"P", b"\x7fEL", text, &[0; 100], &zip([])] {
        assert_eq!(refusal(bytes, "app.jar").code, Code::NotAnArtifact, "{bytes:?}");
    }
    assert!(refusal(b"", "app.jar").message.contains("empty"));
}

#[test]
fn a_file_that_was_cut_short_is_refused() {
    for bytes in [plain_jar(), war(), spring_boot_jar().bytes(), TestElf::executable().bytes()] {
        for length in [bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(refusal(&bytes[..length], "app").code, Code::Truncated);
        }
    }
}

/// Reads all that anything in this crate reads of an artifact.
fn read_all(bytes: &[u8]) {
    let bytes = &bytes;
    // A result of either kind is right: only a panic or an endless loop is not.
    inspect(bytes, "app.jar").ok();
    elf::inspect(bytes).ok();
    let Ok(archive) = Archive::read(bytes) else { return };
    for entry in archive.entries() {
        if let Ok(content) = archive.read_to_vec(bytes, entry, 1 << 20) {
            assert_eq!(content.len() as u64, entry.size);
            assert_eq!(crc32fast::hash(&content), entry.crc32);
        }
    }
}

/// What is done to an artifact's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    /// Sizes, counts and offsets break best at their limits.
    Fill(Index, usize, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Copy(Index, Index, usize),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop_oneof![
        8 => (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (any::<Index>(), 1..9usize, byte)
            .prop_map(|(at, count, byte)| Damage::Fill(at, count, byte)),
        1 => (any::<Index>(), 1..64usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (any::<Index>(), any::<Vec<u8>>()).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), any::<Index>(), 1..64usize)
            .prop_map(|(from, to, count)| Damage::Copy(from, to, count)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        // Most of the structure is at an archive's end and an executable's start, so positions
        // are drawn from the last and the first bytes as often as from all.
        let place = |at: &Index| match at.index(3) {
            0 => at.index(bytes.len()),
            1 => at.index(bytes.len().min(128)),
            _ => bytes.len() - 1 - at.index(bytes.len().min(300)),
        };
        let range = |at: &Index, count: &usize| place(at)..(place(at) + count).min(bytes.len());
        match self {
            Self::Set(at, byte) => {
                let at = place(at);
                bytes[at] = *byte;
            }
            Self::Fill(at, count, byte) => {
                let range = range(at, count);
                bytes[range].fill(*byte);
            }
            Self::Remove(at, count) => drop(bytes.drain(range(at, count))),
            Self::Insert(at, inserted) => {
                let at = place(at);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Copy(from, to, count) => {
                let from = range(from, count);
                let to = place(to).min(bytes.len() - from.len());
                bytes.copy_within(from, to);
            }
            Self::Cut(at) => bytes.truncate(place(at)),
        }
    }
}

fn artifacts() -> Vec<Vec<u8>> {
    let zip64 = TestArchive { zip64: true, comment: b"comment".to_vec(), ..spring_boot_jar() };
    let mut described = spring_boot_jar();
    for entry in &mut described.entries {
        (entry.flags, entry.zip64) = (8, true);
    }
    let mut big = TestElf::executable();
    (big.big, big.machine) = (true, 22);
    let executable = TestElf::executable().bytes();
    vec![plain_jar(), war(), zip64.bytes(), described.bytes(), executable, big.bytes()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_damage_makes_it_panic(
        which in any::<Index>(),
        damages in proptest::collection::vec(damage(), 1..5),
    ) {
        let artifacts = artifacts();
        let mut bytes = which.get(&artifacts).clone();
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        read_all(&bytes);
    }

    #[test]
    fn no_bytes_make_it_panic(start in 0..4usize, mut bytes in any::<Vec<u8>>()) {
        let starts = [&b""[..], b"PK\x03\x04", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x02\x01"];
        bytes.splice(0..0, starts[start].iter().copied());
        read_all(&bytes);
        bytes.extend_from_slice(&zip([]));
        read_all(&bytes);
    }
}
