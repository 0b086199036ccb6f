// SPDX-License-Identifier: Apache-2.0

//! Any bytes as a bundle: what is accepted is one tree below one directory, inside the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_artifact::bundle::{Bundle, Format, Node, form, script::Script};
use slipway_artifact::testing::tar::{TarEntry, extended, file, record, special, tar};
use slipway_artifact::{InspectError, words};
use slipway_fuzz::seeds;

fuzz_target!(
    init: seeds::write(inputs()),
    |bytes: &[u8]| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            drop(words::split(text));
            drop(Script::parse(text, "shop", "/app"));
        }
        // What is compressed is unpacked to disk, which is slow, and is a plain archive then.
        if !matches!(Format::of(&bytes), Ok(Some(Format::Tar))) {
            return;
        }
        match Bundle::open(&bytes, &std::env::temp_dir()) {
            Ok(bundle) => check(&bundle, bytes),
            Err(InspectError::Invalid(invalid)) => {
                assert!(!invalid.message.contains('\u{1b}'), "it could disturb a terminal");
            }
            Err(InspectError::Read(error)) => panic!("memory could not be read: {error}"),
        }
    }
);

fn check(bundle: &Bundle, bytes: &[u8]) {
    let nodes = bundle.tree().nodes();
    for (path, node) in nodes {
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        assert!(path.split('/').all(is_plain) && !path.contains('\0'), "{path:?}");
        for (slash, _) in path.match_indices('/') {
            let above = nodes.get(&path[..slash]);
            assert!(
                above.is_none_or(|above| *above == Node::Directory),
                "{path:?} is below a file"
            );
        }
        if let Node::File(file) = node {
            let end = file.offset.checked_add(file.size).expect("it is in the file");
            assert!(end <= bytes.len() as u64, "{path:?} is outside the file");
            assert!(file.modified.is_none_or(|seconds| seconds > 0));
        }
        if let Node::Link(target) = node {
            assert!(!target.starts_with('/'), "{path:?} leads out");
        }
    }
    let files = bundle.files(&bytes);
    let form = form::recognise(files).expect("memory is read");
    drop(form::launch(&form, files, "/app").expect("memory is read"));
}

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let script =
        b"#!/bin/sh\nCLASSPATH=$APP_HOME/lib/a.jar\nset -- -classpath \"$CLASSPATH\" M \"$@\"\n";
    let long = "d/".repeat(60) + "x";
    vec![
        ("scripts", tar([file("shop/bin/shop", script), file("shop/lib/a.jar", b"PK")])),
        ("links", tar([file("a/b", b"1"), special("a/c", b'2', "b"), special("a/d", b'1', "a/b")])),
        ("pax", tar([extended(b'x', &record("path", &long)), file("x", b"1")])),
        (
            "gnu",
            tar([
                TarEntry { magic: *b"ustar  \0", ..extended(b'L', long.as_bytes()) },
                TarEntry { magic: *b"ustar  \0", ..file("x", b"1") },
            ]),
        ),
        ("elf", tar([special("./", b'5', ""), file("./tool", b"\x7fELF\x02\x01\x01")])),
        ("script", script.to_vec()),
    ]
}
