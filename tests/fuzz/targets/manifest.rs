// SPDX-License-Identifier: Apache-2.0

//! Any bytes as a manifest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_artifact::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let manifest = Manifest::parse(bytes);
    for name in ["Main-Class", "Spring-Boot-Version", "Class-Path", ""] {
        let value = manifest.get(name);
        assert_eq!(value, manifest.get(&name.to_ascii_lowercase()), "names have no case");
        assert!(value.is_none_or(|value| value.trim() == value && !value.contains(['\r', '\n'])));
    }
    // The three line ends mean the same.
    if !bytes.contains(&b'\r') {
        let text = |end: &[u8]| {
            let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            Manifest::parse(&lines.join(end))
        };
        assert_eq!(text(b"\r\n"), manifest);
        assert_eq!(text(b"\r"), manifest);
    }
    // A line may be folded anywhere but before its first byte.
    let inside = |at: &usize| {
        let (before, after) = (bytes[*at - 1], bytes[*at]);
        ![before, after].iter().any(|byte| matches!(byte, b'\r' | b'\n'))
    };
    if let Some(at) = (1..bytes.len()).rev().find(inside) {
        let folded = [&bytes[..at], b"\n ", &bytes[at..]].concat();
        assert_eq!(Manifest::parse(&folded), manifest, "folded at {at}");
    }
});
