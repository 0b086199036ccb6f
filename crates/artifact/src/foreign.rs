// SPDX-License-Identifier: Apache-2.0

//! Names files that are no artifacts for what they are, so that whoever uploaded one learns which
//! file to upload instead.

use std::io;

use crate::invalid::{Code, InspectError, InvalidArtifact};
use crate::source::Source;

/// How much of a file is looked at.
const START: usize = 512;

/// What is done about each kind of file.
const FOR_LINUX: &str = "build it for Linux (GOOS=linux for Go, a target such as \
    x86_64-unknown-linux-musl for Rust)";
const BINARY_OR_JAR: &str = "upload the JAR, WAR or Linux executable that it starts";
const UNPACK: &str = "unpack it, and upload the JAR, WAR or executable in it";

/// First bytes, what they are the start of, and what to do.
const STARTS: [(&[u8], &str, &str); 17] = [
    (b"#!", "a script", BINARY_OR_JAR),
    (b"\x1f\x8b", "compressed with gzip", UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"!<arch>\ndebian-binary", "a Debian package", UNPACK),
    (b"!<arch>\n", "a static library (.a)", "upload the executable that is linked with it"),
    (b"\xed\xab\xee\xdb", "an RPM package", UNPACK),
    (b"\0asm", "a WebAssembly module", FOR_LINUX),
    (b"dex\n", "Android's bytecode (DEX)", "upload a JAR with Java's"),
    (b"BC\xc0\xde", "LLVM bitcode", "link it and upload the executable"),
    (b"\xd0\xcf\x11\xe0", "a Windows Installer package", FOR_LINUX),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<", "an HTML or XML document", "see whether a download answered with an error page"),
    (b"{", "a JSON document", "see whether a download answered with an error"),
];

/// Says in a refusal of what is no archive what it is instead.
pub(crate) fn explain(error: InspectError, source: &dyn Source) -> InspectError {
    match error {
        InspectError::Invalid(InvalidArtifact { code: Code::NotAnArtifact, .. }) => {
            match name(source) {
                Ok(Some(message)) => InspectError::invalid(Code::NotAnArtifact, message),
                Ok(None) => error,
                Err(failure) => failure.into(),
            }
        }
        other => other,
    }
}

/// Says what a file is that is neither archive nor ELF executable, and what to do; `None` where
/// that cannot be told.
fn name(source: &dyn Source) -> io::Result<Option<String>> {
    let length = usize::try_from(source.len()).unwrap_or(usize::MAX).min(START);
    let mut start = vec![0; length];
    source.read_exact_at(0, &mut start)?;
    let (what, remedy) = if let Some(what) = mach_o(&start) {
        (what, FOR_LINUX)
    } else if let Some(what) = windows(&start, source)? {
        (what, FOR_LINUX)
    } else if let Some(major) = class_file(&start) {
        let what = format!("a single Java class (class file version {major})");
        (what, "put it into a JAR and upload that")
    } else if start.get(257..262) == Some(b"ustar") {
        ("a tar archive".to_owned(), UNPACK)
    } else {
        let text = start.trim_ascii_start();
        let known = STARTS.iter().find(|(magic, ..)| {
            start.starts_with(magic) || (magic.len() == 1 && text.starts_with(magic))
        });
        let Some((_, what, remedy)) = known else { return Ok(None) };
        ((*what).to_owned(), *remedy)
    };
    Ok(Some(format!(
        "the file is {what}, and images are made of a JAR, a WAR or an executable \
        for Linux (ELF): {remedy}"
    )))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// An executable of macOS, for one processor or several (`mach-o/loader.h`, `mach-o/fat.h`).
fn mach_o(start: &[u8]) -> Option<String> {
    let second = number(start, 4)?;
    let (what, processor) = match number(start, 0)? {
        0xfeed_face | 0xfeed_facf => ("a Mach-O file", processor(second)),
        0xcefa_edfe | 0xcffa_edfe => ("a Mach-O file", processor(second.swap_bytes())),
        // Java's classes start with the same bytes. Their version, from 45 on, is where the number
        // of processors is here.
        0xcafe_babe | 0xcafe_babf if (1..45).contains(&second) => {
            return Some(format!("a universal Mach-O file for {second} processors, for macOS"));
        }
        _ => return None,
    };
    Some(format!("{what} for macOS{processor}"))
}

fn processor(number: u32) -> &'static str {
    match number {
        7 => " on x86",
        0x0100_0007 => " on x86-64",
        12 => " on ARM",
        0x0100_000c => " on Apple silicon",
        _ => "",
    }
}

fn class_file(start: &[u8]) -> Option<u16> {
    let version = number(start, 4).filter(|_| number(start, 0) == Some(0xcafe_babe))?;
    u16::try_from(version & 0xffff).ok()
}

/// An executable of Windows or DOS (Microsoft, "PE Format").
fn windows(start: &[u8], source: &dyn Source) -> io::Result<Option<String>> {
    if !start.starts_with(b"MZ") {
        return Ok(None);
    }
    let dos = Ok(Some("an executable for DOS".to_owned()));
    let Some(offset) = number(start, 60).map(u32::swap_bytes) else { return dos };
    let mut signature = [0; 6];
    if u64::from(offset) + signature.len() as u64 > source.len() {
        return dos;
    }
    source.read_exact_at(offset.into(), &mut signature)?;
    if !signature.starts_with(b"PE\0\0") {
        return dos;
    }
    let machine = match u16::from_le_bytes([signature[4], signature[5]]) {
        0x014c => " on x86",
        0x8664 => " on x86-64",
        0xaa64 => " on ARM64",
        _ => "",
    };
    Ok(Some(format!("an executable for Windows (PE){machine}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bytes: &[u8]) -> String {
        name(&bytes).expect("memory is read").unwrap_or_default()
    }

    fn windows_file(offset: u32) -> Vec<u8> {
        let mut bytes = b"MZ".to_vec();
        bytes.resize(60, 0);
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(b"PE\0\0\x64\x86");
        bytes
    }

    #[test]
    fn each_file_is_named_for_what_it_is_with_what_to_do() {
        let mut tar = vec![b'x'; 600];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], &str, &str); 17] = [
            (b"#!/bin/sh\nexec java -jar app.jar\n", "a script", "that it starts"),
            (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01rest", "macOS on x86-64", "GOOS=linux"),
            (b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01rest", "Apple silicon", "GOOS=linux"),
            (b"\xfe\xed\xfa\xce\x00\x00\x00\x07rest", "Mach-O file for macOS on x86", "Linux"),
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x02rest", "universal Mach-O", "GOOS=linux"),
            (b"\xca\xfe\xba\xbf\x00\x00\x00\x02rest", "universal Mach-O", "GOOS=linux"),
            (b"\xca\xfe\xba\xbe\x00\x00\x00\x3drest", "Java class", "into a JAR"),
            (&windows_file(64), "Windows (PE) on x86-64", "GOOS=linux"),
            (&windows_file(66), "for DOS", "GOOS=linux"),
            (b"MZ", "for DOS", "GOOS=linux"),
            (b"\x1f\x8b\x08", "gzip", "unpack it"),
            (&tar, "tar archive", "unpack it"),
            (b"!<arch>\ndebian-binary   ", "Debian package", "unpack it"),
            (b"!<arch>\nfoo.o/", "static library", "linked with it"),
            (b"\0asm\x01\0\0\0", "WebAssembly", "GOOS=linux"),
            (b"\n <!DOCTYPE html>", "HTML", "error page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        ];
        for (bytes, what, remedy) in cases {
            let named = named(bytes);
            assert!(named.contains(what) && named.contains(remedy), "{what}: {named}");
        }
    }

    #[test]
    fn other_files_have_no_name() {
        for bytes in [&b""[..], b"P", b"just some text", &[0; 600], b"\xca\xfe\xba"] {
            assert_eq!(named(bytes), "");
        }
    }
}
