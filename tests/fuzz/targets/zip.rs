// SPDX-License-Identifier: Apache-2.0

//! Any bytes as an archive.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_artifact::bundle::Format;
use slipway_artifact::inspect;
use slipway_artifact::testing::{TestArchive, TestEntry, deflated, stored, zip};
use slipway_fuzz::{archive, seeds};

fuzz_target!(
    init: seeds::write(inputs()),
    |bytes: &[u8]| {
        // Those are read by the target `bundle`.
        if !matches!(Format::of(&bytes), Ok(None)) {
            return;
        }
        let accepted = archive::check(bytes).is_some();
        let facts = inspect(&bytes, "upload").ok();
        assert_eq!(facts, inspect(&bytes, "upload").ok(), "it was inspected in two ways");
        let is_elf = bytes.starts_with(b"\x7fELF");
        assert!(facts.is_none() || accepted || is_elf, "facts of an archive that is refused");
    }
);

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let class = [b"\xca\xfe\xba\xbe\0\0\0\x3d".as_slice(), &[0; 40]].concat();
    let manifest = b"Manifest-Version: 1.0\r\nMain-Class: com.example.Main\r\n\r\n";
    let boot = b"Main-Class: org.springframework.boot.loader.launch.JarLauncher\n\
                 Spring-Boot-Version: 3.2.0\nSpring-Boot-Classes: BOOT-INF/classes/\n";
    let jar = vec![deflated("META-INF/MANIFEST.MF", manifest), deflated("com/Main.class", &class)];
    let described = TestEntry { flags: 8, ..deflated("a", b"content content content") };
    let wide = TestEntry { zip64: true, local_extra: vec![9; 4], ..stored("b", b"content") };
    let archive =
        |entries: &[TestEntry]| TestArchive { entries: entries.to_vec(), ..TestArchive::default() };
    vec![
        ("jar", archive(&jar).bytes()),
        ("script", TestArchive { prefix: b"#!/bin/sh\n".to_vec(), ..archive(&jar) }.bytes()),
        ("comment", TestArchive { comment: b"built today".to_vec(), ..archive(&jar) }.bytes()),
        ("zip64", TestArchive { zip64: true, ..archive(&[wide, described]) }.bytes()),
        (
            "boot",
            zip([
                deflated("META-INF/MANIFEST.MF", boot),
                stored("BOOT-INF/classes/", b""),
                stored("BOOT-INF/classes/App.class", &class),
                deflated("BOOT-INF/layers.idx", b"- \"application\":\n  - \"BOOT-INF/\"\n"),
            ]),
        ),
        (
            "war",
            zip([
                stored("WEB-INF/", b""),
                deflated("WEB-INF/web.xml", b"<web-app version=\"3.1\"></web-app>"),
                stored("WEB-INF/classes/S.class", &[&class[..], b"javax/servlet/Servlet"].concat()),
            ]),
        ),
        ("libraries", zip(libraries(&jar))),
        (
            "odd",
            zip(["/a", "a//b", "../c", "d\\e", "f", "f", "g/", "g/", "h", "h/i"]
                .map(|name| stored(name, b""))),
        ),
        ("behind", TestArchive { prefix: zip([stored("note", b"x")]), ..archive(&jar) }.bytes()),
        ("empty", zip([])),
        ("cp437", zip([TestEntry { name: b"M\x81ll".to_vec(), ..stored("", b"x") }])),
    ]
}

/// A WAR with nested archives in every form.
fn libraries(jar: &[TestEntry]) -> Vec<TestEntry> {
    let class = b"\xca\xfe\xba\xbe\xff\xff\0\x41 jakarta/servlet/Filter";
    let mut entries = vec![deflated("web-servlet/Filter.class", class)];
    entries.extend(jar.iter().map(|entry| TestEntry { flags: 8, ..entry.clone() }));
    let nested = zip(entries);
    let service = "META-INF/services/javax.servlet.ServletContainerInitializer";
    vec![
        stored("META-INF/MANIFEST.MF", b"Main-Class: a.Main\nClass-Path: lib/a.jar b.jar\n"),
        stored("WEB-INF/lib/a.jar", &nested),
        deflated("WEB-INF/lib/b.jar", &nested),
        stored("WEB-INF/lib/spring-web-7.0.jar", &zip([stored(service, b"x")])),
    ]
}
