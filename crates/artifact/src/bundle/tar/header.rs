// SPDX-License-Identifier: Apache-2.0

//! One header block of a tar archive.

use super::corrupt;
use crate::invalid::InspectError;

/// The size of a header, and the unit of contents.
pub(in crate::bundle) const BLOCK: usize = 512;

const CHECKSUM: std::ops::Range<usize> = 148..156;

/// POSIX's magic with its version, and GNU's, which has another use for the field `prefix`.
const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

/// What a header stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    SymbolicLink,
    HardLink,
    /// What becomes no part of an image, in words.
    Special(&'static str),
    /// A pax header for the next entry.
    Extended,
    /// A pax header for all entries behind it.
    Global,
    /// GNU's long name of the next entry.
    LongName,
    /// GNU's long target of the next entry.
    LongLink,
}

/// The fields that are used of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u64,
    pub(super) size: u64,
    pub(super) modified: Option<i64>,
}

/// Returns whether a block is a header: its checksum is that of its bytes.
pub(in crate::bundle) fn is_header(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK]>::try_from(block) else { return false };
    block[0] != 0 && number(&block[CHECKSUM]) == Some(sum(block))
}

/// Adds the bytes up, those of the checksum as spaces.
fn sum(block: &[u8; BLOCK]) -> u64 {
    let byte = |(index, byte): (usize, &u8)| {
        u64::from(if CHECKSUM.contains(&index) { b' ' } else { *byte })
    };
    block.iter().enumerate().map(byte).sum()
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, InspectError> {
        if number(&block[CHECKSUM]) != Some(sum(block)) {
            return Err(corrupt("a header of the tar archive has a wrong checksum"));
        }
        let magic = &block[257..265];
        if magic != USTAR && magic != GNU && magic != [0; 8] {
            return Err(corrupt("a header of the tar archive has an unknown format"));
        }
        let mut name = text(&block[..100]);
        let prefix = text(&block[345..500]);
        if magic == USTAR && !prefix.is_empty() {
            name = [&prefix, &b"/"[..], &name].concat();
        }
        let field = |range: std::ops::Range<usize>, what: &str| {
            let corrupt = || corrupt(&format!("a header of the tar archive has a wrong {what}"));
            number(&block[range]).ok_or_else(corrupt)
        };
        Ok(Self {
            kind: kind(block[156]),
            name,
            link: text(&block[157..257]),
            mode: field(100..108, "mode")?,
            size: field(124..136, "size")?,
            modified: number(&block[136..148]).and_then(|seconds| i64::try_from(seconds).ok()),
        })
    }
}

fn kind(flag: u8) -> Kind {
    match flag {
        b'0' | 0 | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::SymbolicLink,
        b'3' | b'4' => Kind::Special("a device"),
        b'5' => Kind::Directory,
        b'6' => Kind::Special("a named pipe"),
        b'x' => Kind::Extended,
        b'g' => Kind::Global,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        b'S' => Kind::Special("a sparse file, which programs store in different ways"),
        b'M' | b'V' => Kind::Special("a part of an archive of several volumes"),
        b'D' => Kind::Special("a list of files of an incremental backup"),
        _ => Kind::Special("of an unknown type"),
    }
}

/// Returns a text up to its first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// Reads a number: octal digits between spaces and NULs, or GNU's base 256 with the highest bit of
/// the field set. `None` also for a negative one.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // The second highest bit is the sign.
        let start = (first & 0x40 == 0).then(|| u64::from(first & 0x3f))?;
        return rest.iter().try_fold(start, |number, byte| {
            number.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_filler).unwrap_or(digits.len());
    if !digits[end..].iter().all(is_filler) {
        return None;
    }
    digits[..end].iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        number.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_octal_or_in_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0"), Some(0o644));
        assert_eq!(number(b"00000000005"), Some(5));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        for wrong in [&b"64x\0"[..], b"9", b"64\x001", b"-1", b"\xff\xff\xff\xff", &[0xbf; 12]] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }
}
