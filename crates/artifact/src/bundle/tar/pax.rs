// SPDX-License-Identifier: Apache-2.0

//! The records of a pax header: `<length> <key>=<value>\n`, where the length counts itself (POSIX,
//! "pax Extended Header").

use super::corrupt;
use crate::invalid::{Code, InspectError};

/// What an extended header says of the next entry. Owners, access times and extended attributes are
/// not kept, so they are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<i64>,
}

impl Extended {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, InspectError> {
        let wrong = || corrupt("an extended header of the tar archive is wrong");
        let mut extended = Self::default();
        // Some writers fill the header with zeros.
        while bytes.iter().any(|byte| *byte != 0) {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length = decimal(&bytes[..space]).and_then(|n| usize::try_from(n).ok());
            let (record, rest) =
                length.and_then(|length| bytes.split_at_checked(length)).ok_or_else(wrong)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // The last one of several counts.
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.target = Some(value.to_vec()),
                b"size" => extended.size = Some(decimal(value).ok_or_else(wrong)?),
                b"mtime" => extended.modified = whole_seconds(value),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(InspectError::invalid(
                        Code::UnsupportedEntry,
                        "the archive holds a sparse file, which programs store in different ways: \
                        build it again without --sparse",
                    ));
                }
                _ => {}
            }
            bytes = rest;
        }
        Ok(extended)
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Reads seconds with or without a fraction. A time before 1970 is none.
fn whole_seconds(value: &[u8]) -> Option<i64> {
    let whole = value.split(|byte| *byte == b'.').next()?;
    i64::try_from(decimal(whole)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_the_last_of_a_key_counts() {
        let text = b"10 path=a\n10 path=b\n11 size=77\n20 mtime=1700000000\n16 SCHILY.x=a\nb\n\0\0";
        let extended = Extended::parse(text).expect("it is read");
        let path = Some(b"b".to_vec());
        assert_eq!(
            extended,
            Extended { path, target: None, size: Some(77), modified: Some(1_700_000_000) }
        );
        assert_eq!(whole_seconds(b"1.999"), Some(1));
        assert_eq!(whole_seconds(b"-1.5"), None);
    }

    #[test]
    fn a_header_that_is_no_list_of_records_is_refused() {
        for text in [
            &b"path=a\n"[..],
            b"10 path=a",
            b"8 path=a\n",
            b"99 path=a\n",
            b"0 a=b\n",
            b"2 a=b\n",
            b"+9 path=x\n",
            b"8 path a\n",
            b"11 size=-1\n",
            b"29 GNU.sparse.realsize=99999\n",
        ] {
            assert!(Extended::parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }
}
