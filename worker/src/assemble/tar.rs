// SPDX-License-Identifier: Apache-2.0

//! Headers of a tar archive: POSIX ustar, with pax records for values that do not fit.
//!
//! Written here instead of by a tar library because the header is part of the digest: no field may
//! come from the clock, the file system or a library's next version. Image-spec "Filesystem Layer"
//! says what a layer may hold.

/// The size of a header and of the padding unit of contents, in bytes.
pub const BLOCK: usize = 512;

/// The largest number of the octal fields: 11 digits for sizes, 7 for owners.
const MAX_SIZE: u64 = 0o777_7777_7777;
const MAX_OWNER: u32 = 0o777_7777;

/// The length of the field for the target of a link.
const LONGEST_TARGET: usize = 100;

/// The fields of a header.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The path, relative, without a leading or trailing slash.
    pub path: &'a str,
    /// The kind of entry.
    pub kind: Kind<'a>,
    /// The permission bits.
    pub mode: u32,
    /// The numeric user.
    pub user: u32,
    /// The numeric group.
    pub group: u32,
    /// The modification time, in seconds since the epoch; not negative.
    pub modified: i64,
}

/// A kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file of that many bytes.
    File(u64),
    /// A symbolic link to a path.
    Link(&'a str),
}

/// Returns the header blocks of an entry.
#[must_use]
pub fn header(entry: &Entry<'_>) -> Vec<u8> {
    let (path, size, flag) = match entry.kind {
        Kind::Directory => (format!("{}/", entry.path), 0, b'5'),
        Kind::File(size) => (entry.path.to_owned(), size, b'0'),
        Kind::Link(_) => (entry.path.to_owned(), 0, b'2'),
    };
    let target = match entry.kind {
        Kind::Link(target) => target,
        Kind::Directory | Kind::File(_) => "",
    };
    let mut records = String::new();
    let split = split_path(&path);
    if split.is_none() || !path.is_ascii() {
        records.push_str(&pax_record("path", &path));
    }
    if target.len() > LONGEST_TARGET || !target.is_ascii() {
        records.push_str(&pax_record("linkpath", target));
    }
    if size > MAX_SIZE {
        records.push_str(&pax_record("size", &size.to_string()));
    }
    for (key, owner) in [("uid", entry.user), ("gid", entry.group)] {
        if owner > MAX_OWNER {
            records.push_str(&pax_record(key, &owner.to_string()));
        }
    }
    let mut blocks = Vec::with_capacity(4 * BLOCK);
    if !records.is_empty() {
        let length = records.len() as u64;
        let fixed = Entry { kind: Kind::File(length), mode: 0o644, user: 0, group: 0, ..*entry };
        blocks.extend_from_slice(&block("", "PaxHeader", length, b'x', &fixed));
        blocks.extend_from_slice(records.as_bytes());
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    // A reader without pax sees a shortened name, as every tar program writes it.
    let short: String = path.chars().filter(char::is_ascii).take(100).collect();
    let (prefix, name) = match split {
        Some(split) if path.is_ascii() => split,
        _ => ("", short.as_str()),
    };
    blocks.extend_from_slice(&block(prefix, name, size, flag, entry));
    blocks
}

/// Returns how many zero bytes follow contents of `size` bytes.
#[must_use]
pub fn padding(size: u64) -> usize {
    let rest = usize::try_from(size % BLOCK as u64).expect("less than a block");
    (BLOCK - rest) % BLOCK
}

/// The two zero blocks at the end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn block(prefix: &str, name: &str, size: u64, flag: u8, entry: &Entry<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, bytes: &[u8]| {
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, name.as_bytes());
    put(100, format!("{:07o}\0", entry.mode & 0o7777).as_bytes());
    put(108, format!("{:07o}\0", entry.user.min(MAX_OWNER)).as_bytes());
    put(116, format!("{:07o}\0", entry.group.min(MAX_OWNER)).as_bytes());
    put(124, format!("{:011o}\0", size.min(MAX_SIZE)).as_bytes());
    put(136, format!("{:011o}\0", entry.modified.max(0)).as_bytes());
    put(148, b"        ");
    put(156, &[flag]);
    if let Kind::Link(target) = entry.kind {
        // A reader without pax sees a shortened target.
        let short: String = target.chars().filter(char::is_ascii).take(LONGEST_TARGET).collect();
        put(157, short.as_bytes());
    }
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Splits a path for the fields `prefix` (155 bytes) and `name` (100 bytes), if it fits.
fn split_path(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(slash, _)| (&path[..slash], &path[slash + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && (1..=100).contains(&name.len()))
}

/// `<length> <key>=<value>\n`, where the length counts itself (POSIX pax, "Extended header").
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, size: u64) -> Entry<'_> {
        Entry { path, kind: Kind::File(size), mode: 0o644, user: 0, group: 0, modified: 1 }
    }

    #[test]
    fn a_header_has_the_bytes_it_always_had() {
        let bytes = header(&file("app/app.jar", 5));
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(
            slipway_proto::Digest::of(&bytes).to_string(),
            "sha256:0a88ae742ba6cd85682646efced468c1ad143d59de581b0a1b1fc8c7e3f4aa5b"
        );
    }

    #[test]
    fn a_link_has_its_target_and_no_content() {
        let link = |target| Entry { kind: Kind::Link(target), mode: 0o777, ..file("lib/a.so", 0) };
        let bytes = header(&link("a-1.so"));
        assert_eq!((bytes.len(), bytes[156]), (BLOCK, b'2'));
        assert_eq!(
            (text(&bytes[157..257]), text(&bytes[124..136])),
            ("a-1.so".into(), "0".repeat(11))
        );
        let long = "../".repeat(60) + "a";
        let bytes = header(&link(&long));
        assert!(String::from_utf8_lossy(&bytes).contains(&format!("linkpath={long}\n")));
        assert_eq!(bytes[bytes.len() - BLOCK + 156], b'2');
    }

    #[test]
    fn pax_lengths_count_themselves() {
        assert_eq!(pax_record("path", "x"), "9 path=x\n");
        let near_a_power_of_ten = pax_record("path", &"x".repeat(90));
        let length: usize =
            near_a_power_of_ten.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!(length, near_a_power_of_ten.len());
    }

    proptest! {
        /// Reads the fields like GNU tar, as far as needed to recover the name.
        #[test]
        fn every_path_can_be_read_back(path in "[a-z0-9äß._/-]{1,300}", size in 0u64..1 << 40) {
            prop_assume!(!path.starts_with('/') && !path.ends_with('/'));
            let bytes = header(&file(&path, size));
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let (read_path, read_size) = read(&bytes);
            prop_assert_eq!(read_path, path);
            prop_assert_eq!(read_size, size);
        }
    }

    fn text(field: &[u8]) -> String {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8(field[..end].to_vec()).expect("UTF-8")
    }

    fn read(bytes: &[u8]) -> (String, u64) {
        let main = &bytes[bytes.len() - BLOCK..];
        let sum: u32 = main
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) })
            .sum();
        assert_eq!(u32::from_str_radix(text(&main[148..154]).trim(), 8), Ok(sum));
        let mut path = text(&main[..100]);
        let prefix = text(&main[345..500]);
        if !prefix.is_empty() {
            path = format!("{prefix}/{path}");
        }
        let mut size = u64::from_str_radix(&text(&main[124..136]), 8).expect("octal");
        if bytes.len() > BLOCK {
            assert_eq!(bytes[156], b'x');
            for record in text(&bytes[BLOCK..bytes.len() - BLOCK]).lines() {
                let (key, value) =
                    record.split_once(' ').and_then(|(_, r)| r.split_once('=')).expect("a record");
                match key {
                    "path" => value.clone_into(&mut path),
                    "size" => size = value.parse().expect("a number"),
                    other => panic!("unexpected record {other}"),
                }
            }
        }
        (path, size)
    }
}
