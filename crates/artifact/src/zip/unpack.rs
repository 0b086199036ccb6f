// SPDX-License-Identifier: Apache-2.0

//! Which entries of an archive become which files and directories.
//!
//! Asked only of archives that are unpacked. One that is laid down whole is a single file, and the
//! JVM takes names from it that no file system would.

use super::{Entry, name};
use crate::invalid::{Code, InspectError, quoted};

/// Chooses among entries that come in the order of their paths, copies in the order of the archive.
pub(super) fn entries<'a>(
    sorted: impl Iterator<Item = &'a Entry>,
) -> Result<Vec<&'a Entry>, InspectError> {
    let mut kept: Vec<&Entry> = Vec::with_capacity(sorted.size_hint().0);
    for entry in sorted {
        check(entry)?;
        match kept.last().and_then(|before| clash(before, entry)) {
            None => kept.push(entry),
            Some(Clash::Harmless) => {
                kept.pop();
                kept.push(entry);
            }
            Some(Clash::Contradiction(what)) => {
                let message = format!(
                    "{what}, and programs disagree about which one counts: build the archive \
                    again with one of them"
                );
                return Err(InspectError::invalid(Code::DuplicateEntry, message));
            }
        }
    }
    Ok(kept)
}

/// Two entries that want the same path.
enum Clash {
    /// The later one says all that the earlier one says.
    Harmless,
    /// They disagree, as the text says.
    Contradiction(String),
}

/// Compares an entry with the one that follows it in the order of paths, where everything below a
/// path follows it directly.
fn clash(before: &Entry, entry: &Entry) -> Option<Clash> {
    let path = name::directory_of(&before.name);
    let rest = entry.name.strip_prefix(path)?;
    let is_same = || (before.size, before.crc32) == (entry.size, entry.crc32);
    let contradiction = match (before.is_directory(), rest) {
        (false, "") if is_same() => return Some(Clash::Harmless),
        (true, "/") => return Some(Clash::Harmless),
        // The directories above a file are made with it.
        (false, rest) if rest.starts_with('/') && before.size == 0 => {
            return Some(Clash::Harmless);
        }
        (false, "") => {
            format!("the entry {} is in the archive twice with different content", quoted(path))
        }
        (false, "/") => format!("the entry {} is both a file and a directory", quoted(path)),
        (false, rest) if rest.starts_with('/') => format!(
            "the entry {} is a file and the directory of {}",
            quoted(path),
            quoted(&entry.name)
        ),
        _ => return None,
    };
    Some(Clash::Contradiction(contradiction))
}

/// Refuses an entry that cannot become a file or directory below the place where it is unpacked.
fn check(entry: &Entry) -> Result<(), InspectError> {
    name::check(&entry.name)?;
    if let Some(what) = entry.special {
        let message = format!(
            "the entry {} is {what}, and only files and directories are unpacked: build the \
            archive again without it",
            quoted(&entry.name)
        );
        return Err(InspectError::invalid(Code::UnsupportedEntry, message));
    }
    if entry.is_directory() && entry.size > 0 {
        let message = format!(
            "the directory {} has content: build the archive again without it",
            quoted(&entry.name)
        );
        return Err(InspectError::invalid(Code::CorruptArchive, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::invalid::{Code, InspectError};
    use crate::testing::{TestEntry, stored, zip};
    use crate::zip::Archive;

    /// Names and sizes as they are unpacked, or the code of the refusal.
    fn unpacked(entries: impl IntoIterator<Item = TestEntry>) -> Result<Vec<(String, u64)>, Code> {
        let archive = Archive::read(&zip(entries)).expect("java -jar reads it");
        match archive.unpacked() {
            Ok(kept) => Ok(kept.iter().map(|kept| (kept.name.clone(), kept.size)).collect()),
            Err(InspectError::Invalid(invalid)) => Err(invalid.code),
            Err(InspectError::Read(error)) => panic!("{error}"),
        }
    }

    fn files(names: &[(&str, &str)]) -> Result<Vec<(String, u64)>, Code> {
        unpacked(names.iter().map(|(name, content)| stored(name, content.as_bytes())))
    }

    #[test]
    fn names_that_contradict_each_other_are_refused_wherever_they_stand() {
        for names in [
            &[("a", "1"), ("b", ""), ("a", "2")][..],
            &[("a", "1"), ("a!", ""), ("a/", "")],
            &[("x/a/b/c", ""), ("x/a", "1"), ("x/a!b", ""), ("x/a-b", "")],
            &[("x/a", "1"), ("x/a/b/", "")],
            &[("a", ""), ("a", "1"), ("a/", "")],
        ] {
            assert_eq!(files(names), Err(Code::DuplicateEntry), "{names:?}");
        }
    }

    #[test]
    fn names_that_only_look_alike_are_distinct() {
        for names in [
            &[("a/", ""), ("a/b", "1"), ("a/b!", "1")][..],
            &[("a", "1"), ("a!", "1"), ("ab", "1"), ("aa/", ""), ("a-", "1"), ("A", "1")],
            &[("a!/b", "1"), ("ab/", ""), ("ab/c", "1"), ("B/a", "1")],
        ] {
            assert_eq!(files(names).map(|kept| kept.len()), Ok(names.len()), "{names:?}");
        }
    }

    #[test]
    fn what_has_no_content_or_the_same_cannot_disagree() {
        let kept = |names: &[(&str, &str)]| {
            let kept = files(names).expect("it is unpacked");
            kept.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept(&[("META-INF/", ""), ("M", "1"), ("META-INF/", "")]), "M META-INF/");
        assert_eq!(kept(&[("LICENSE", "text"), ("LICENSE", "text")]), "LICENSE");
        assert_eq!(kept(&[("empty", ""), ("empty", "")]), "empty");
        assert_eq!(kept(&[("META-INF", ""), ("META-INF/", "")]), "META-INF/");
        assert_eq!(kept(&[("a", ""), ("a/b", "1"), ("a", "")]), "a/b");
    }

    #[test]
    fn of_copies_that_are_the_same_the_last_is_unpacked() {
        let copy = |name: &str| TestEntry { local_name: Some(name.into()), ..stored("a", b"x") };
        let bytes = zip([copy("b"), copy("a")]);
        let archive = Archive::read(&bytes).expect("it is read");
        let kept = archive.unpacked().expect("it is unpacked");
        assert_eq!(kept.len(), 1);
        assert!(archive.open(&bytes, kept[0]).is_ok(), "the copy with the right local header");
    }

    #[test]
    fn a_link_or_a_device_is_refused_and_a_file_or_directory_is_not() {
        for mode in [0o120_777, 0o010_644, 0o020_666, 0o060_666, 0o140_777] {
            let entry = TestEntry { mode, ..stored("link", b"/etc/passwd") };
            assert_eq!(unpacked([entry]), Err(Code::UnsupportedEntry), "{mode:o}");
        }
        let file = TestEntry { mode: 0o100_644, ..stored("file", b"x") };
        let directory = TestEntry { mode: 0o040_755, ..stored("directory/", b"") };
        assert!(unpacked([file, directory, stored("plain", b"")]).is_ok());
    }

    #[test]
    fn a_bad_name_or_a_directory_with_content_is_refused() {
        for name in ["../x", "/a", "a//b", "./a", "a\\b", "a\0b", "C:/a"] {
            assert_eq!(unpacked([stored(name, b"x")]), Err(Code::UnsafePath), "{name}");
        }
        assert_eq!(unpacked([stored("a/", b"x")]), Err(Code::CorruptArchive));
    }
}
