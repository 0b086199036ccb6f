// SPDX-License-Identifier: Apache-2.0

//! Names of entries: how their bytes are read, which ones are refused, and how they are ordered.
//!
//! The name of an entry that is unpacked becomes a path in an image. Only a name that means one
//! path, below the directory it is put into, is accepted there. Others are refused and not
//! repaired, because two readers that repair a name in different ways see two archives.

use std::cmp::Ordering;
use std::iter;

use crate::invalid::{Code, InspectError, quoted};

/// Linux opens no longer path (`PATH_MAX`), so a longer name could never be used. The limit also
/// bounds the cost of comparing two names.
const LONGEST_NAME: usize = 4096;

/// Bit 11 of an entry's flags: the name is UTF-8 (APPNOTE 4.4.4).
const UTF8_FLAG: u16 = 1 << 11;

/// The upper half of code page 437, in which names without the UTF-8 flag are written
/// (APPNOTE, appendix D).
const CODE_PAGE_437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Reads a name.
///
/// A name that is valid UTF-8 is read as UTF-8 even without the flag, because the JDK does so and
/// the archive is meant for a JVM.
pub(super) fn decode(bytes: &[u8], flags: u16) -> Result<String, InspectError> {
    match std::str::from_utf8(bytes) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) if flags & UTF8_FLAG == 0 => Ok(from_code_page_437(bytes)),
        Err(_) => Err(InspectError::invalid(
            Code::UnsafePath,
            format!(
                "the name of the entry {} says it is UTF-8 and is not: rename it and build the \
                archive again",
                quoted(&String::from_utf8_lossy(bytes))
            ),
        )),
    }
}

fn from_code_page_437(bytes: &[u8]) -> String {
    let upper: Vec<char> = CODE_PAGE_437.chars().collect();
    bytes
        .iter()
        .map(|byte| match byte.checked_sub(0x80) {
            None => char::from(*byte),
            Some(index) => upper[usize::from(index)],
        })
        .collect()
}

/// Refuses a name that is not one relative path with `/` between its components.
pub(crate) fn check(name: &str) -> Result<(), InspectError> {
    let drive = || name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let wrong = if name.is_empty() {
        "is empty"
    } else if name.len() > LONGEST_NAME {
        "is longer than 4096 bytes, which no file system opens"
    } else if name.contains('\0') {
        "holds a NUL character"
    } else if name.contains('\\') {
        "holds a backslash, which is a separator to some programs and not to others"
    } else if name.starts_with('/') {
        "is an absolute path"
    } else if name.as_bytes().get(1) == Some(&b':') && drive() {
        "starts with a drive letter"
    } else if name.trim_end_matches('/').split('/').any(|part| part == "..") {
        "holds `..` and could leave the directory it is put into"
    } else if directory_of(name).split('/').any(|part| matches!(part, "" | ".")) {
        "holds an empty component or `.`, so that two names could mean one file"
    } else {
        return Ok(());
    };
    Err(InspectError::invalid(
        Code::UnsafePath,
        format!(
            "the name of the entry {} {wrong}: build the archive again without it",
            quoted(name)
        ),
    ))
}

/// Returns the name without the one `/` at its end that marks a directory.
pub(super) fn directory_of(name: &str) -> &str {
    name.strip_suffix('/').unwrap_or(name)
}

/// Orders names as a walk through the tree of directories meets them: `/` before every other
/// character. Everything below `a` then follows `a` directly, which byte order does not give
/// (`a`, `a!`, `a/b`).
pub(crate) fn by_path(one: &str, other: &str) -> Ordering {
    let differing = iter::zip(one.bytes(), other.bytes()).find(|(one, other)| one != other);
    match differing {
        Some((one, other)) => {
            let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
            rank(one).cmp(&rank(other))
        }
        None => one.len().cmp(&other.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_not_one_relative_path_is_refused() {
        let long = "a/".repeat(2049);
        let cases: [(&str, &[&str]); 8] = [
            ("is empty", &[""]),
            ("4096 bytes", &[&long]),
            ("NUL", &["a\0b", "\0"]),
            ("backslash", &["a\\b", "..\\a", "\\a", "C:\\a"]),
            ("absolute", &["/", "/etc/passwd", "//", "/../a"]),
            ("drive letter", &["C:", "c:/a", "z:a"]),
            ("`..`", &["..", "../a", "a/../b", "a/..", "a/../", "../"]),
            ("empty component", &[".", "./", "./a", "a/./b", "a//b", "a//", "a/.", "a/./"]),
        ];
        for (what, names) in cases {
            for name in names {
                let InspectError::Invalid(invalid) = check(name).expect_err(name) else {
                    panic!("{name}")
                };
                assert_eq!(invalid.code, Code::UnsafePath, "{name}");
                assert!(invalid.message.contains(what), "{name}: {invalid}");
            }
        }
    }

    #[test]
    fn ordinary_names_are_let_in() {
        for name in [
            "a",
            "a/",
            "META-INF/MANIFEST.MF",
            ".hidden/x",
            "a..b",
            "..a",
            "a/...",
            "1:2",
            "ab:c",
            "com/example/Outer$Inner.class",
            "files/ä ö.txt",
            "a/b/c/",
        ] {
            assert!(check(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_are_read_as_utf8_or_code_page_437() {
        assert_eq!(CODE_PAGE_437.chars().count(), 128);
        assert_eq!(decode("ä".as_bytes(), UTF8_FLAG).expect("UTF-8"), "ä");
        assert_eq!(decode("ä".as_bytes(), 0).expect("UTF-8 without the flag"), "ä");
        assert_eq!(decode(b"M\x81ll \xe1\xff", 0).expect("CP437"), "Müll ß\u{a0}");
        assert!(decode(b"M\x81ll", UTF8_FLAG).is_err());
    }

    #[test]
    fn what_lies_below_a_path_follows_it_directly() {
        let mut names = vec!["a!", "a\0b", "a/b", "a", "a/", "a-b", "a/b/c", "a/b!"];
        names.sort_by(|one, other| by_path(one, other));
        assert_eq!(names, ["a", "a/", "a/b", "a/b/c", "a/b!", "a\0b", "a!", "a-b"]);
    }
}
