// SPDX-License-Identifier: Apache-2.0

//! The modification time of an entry, in seconds since the epoch.
//!
//! An entry has a DOS time, which is local time of a zone that nobody wrote down, and may have extra
//! fields with a time in UTC. The first of these counts. A DOS time is read as UTC, so that the same
//! archive has the same times on every machine.

use super::end::{u16_at, u32_at, u64_at};

/// Extra fields with times in UTC, the most usual first (APPNOTE 4.5, Info-ZIP's `extrafld.txt`).
const EXTENDED_TIMESTAMP: u16 = 0x5455;
const NTFS: u16 = 0x000a;
const INFO_ZIP_UNIX: u16 = 0x5855;
const PKWARE_UNIX: u16 = 0x000d;

/// The attribute of NTFS's field that holds the three times.
const NTFS_TIMES: u16 = 1;
/// From 1601, where NTFS's times start, to 1970, in seconds.
const NTFS_EPOCH: u64 = 11_644_473_600;

/// Reads the modification time from the content of a field, in seconds since the epoch.
type Reader = fn(&[u8]) -> Option<i64>;

/// Returns the modification time of an entry by its DOS time and date and its extra fields; `None`
/// where there is none that can be: no field, a day that no month has, or a time before 1970. The
/// epoch itself is none either: some programs read it as "not set".
pub(super) fn modified(time: u16, date: u16, extra: &[u8]) -> Option<i64> {
    let readers: [(u16, Reader); 4] =
        [(EXTENDED_TIMESTAMP, extended), (NTFS, ntfs), (INFO_ZIP_UNIX, unix), (PKWARE_UNIX, unix)];
    readers
        .iter()
        .find_map(|(id, read)| read(field(extra, *id)?).filter(|seconds| *seconds > 0))
        .or_else(|| dos(time, date))
}

/// Returns the content of an extra field.
fn field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, rest)) = extra.split_at_checked(4) {
        let (content, rest) = rest.split_at_checked(usize::from(u16_at(header, 2)))?;
        if u16_at(header, 0) == wanted {
            return Some(content);
        }
        extra = rest;
    }
    None
}

/// A byte of flags, the first of which says that the modification time follows.
fn extended(content: &[u8]) -> Option<i64> {
    let (flags, rest) = content.split_first()?;
    (flags & 1 == 1 && rest.len() >= 4).then(|| signed(u32_at(rest, 0)))
}

/// Four reserved bytes, then attributes; times are in tenths of a microsecond.
fn ntfs(content: &[u8]) -> Option<i64> {
    let times = field(content.get(4..)?, NTFS_TIMES).filter(|times| times.len() >= 8)?;
    let seconds = (u64_at(times, 0) / 10_000_000).checked_sub(NTFS_EPOCH)?;
    // A time that needs more digits than a tar header has is no time of a file.
    i64::try_from(seconds).ok().filter(|seconds| *seconds < 1 << 33)
}

/// The time of the last access, then that of the last modification.
fn unix(content: &[u8]) -> Option<i64> {
    (content.len() >= 8).then(|| signed(u32_at(content, 4)))
}

fn signed(seconds: u32) -> i64 {
    i64::from(seconds.cast_signed())
}

/// Reads a DOS time and date (APPNOTE 4.4.6): years from 1980, and every second second.
fn dos(time: u16, date: u16) -> Option<i64> {
    let [day, month] = [date & 31, date >> 5 & 15].map(i64::from);
    let year = 1980 + i64::from(date >> 9);
    let [seconds, minutes, hours] = [(time & 31) * 2, time >> 5 & 63, time >> 11].map(i64::from);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    // Years are counted from March, so that a leap day is the last of its year.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = years / 4 - years / 100 + years / 400;
    let days = years * 365 + leap_days + (months * 153 + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29, and 13:14:16 as a DOS time.
    const DATE: u16 = (44 << 9) | (2 << 5) | 29;
    const TIME: u16 = (13 << 11) | (14 << 5) | 8;
    const DOS: i64 = 1_709_212_456;

    fn extra(id: u16, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("short");
        [&id.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
    }

    #[test]
    fn a_dos_time_is_read_as_utc() {
        assert_eq!(modified(TIME, DATE, &[]), Some(DOS));
        // The first and the last, and the days around a leap day that 2100 does not have.
        assert_eq!(modified(0, (1 << 5) | 1, &[]), Some(315_532_800));
        let last = (127 << 9) | (12 << 5) | 31;
        assert_eq!(modified((23 << 11) | (59 << 5) | 29, last, &[]), Some(4_354_819_198));
        assert_eq!(modified(0, (120 << 9) | (2 << 5) | 28, &[]), Some(4_107_456_000));
        assert_eq!(modified(0, (120 << 9) | (3 << 5) | 1, &[]), Some(4_107_542_400));
    }

    #[test]
    fn a_day_or_time_that_cannot_be_is_none() {
        for date in [0, 1, 1 << 5, (13 << 5) | 1, (120 << 9) | (2 << 5) | 29, (4 << 5) | 31] {
            assert_eq!(modified(0, date, &[]), None, "{date:#x}");
        }
        for time in [24 << 11, 60 << 5, 30] {
            assert_eq!(modified(time, DATE, &[]), None, "{time:#x}");
        }
    }

    #[test]
    fn a_field_in_utc_counts_before_the_dos_time() {
        let seconds = 1_700_000_000u32;
        let bytes = seconds.to_le_bytes();
        let expected = Some(i64::from(seconds));
        let stamp = [&[1][..], &bytes].concat();
        assert_eq!(modified(TIME, DATE, &extra(EXTENDED_TIMESTAMP, &stamp)), expected);
        let both = [&[9; 4][..], &bytes].concat();
        assert_eq!(modified(TIME, DATE, &extra(INFO_ZIP_UNIX, &both)), expected);
        assert_eq!(modified(TIME, DATE, &extra(PKWARE_UNIX, &both)), expected);
        let ticks = (u64::from(seconds) + NTFS_EPOCH) * 10_000_000 + 9;
        let times = extra(NTFS_TIMES, &[&ticks.to_le_bytes()[..], &[0; 16]].concat());
        let ntfs = extra(NTFS, &[&[0; 4][..], &times].concat());
        assert_eq!(modified(TIME, DATE, &ntfs), expected);
        // Behind other fields, and the extended timestamp before NTFS's.
        let other = extra(EXTENDED_TIMESTAMP, &[1, 1, 0, 0, 0]);
        let fields = [extra(0xcafe, b""), ntfs, other].concat();
        assert_eq!(modified(TIME, DATE, &fields), Some(1));
    }

    #[test]
    fn a_field_without_a_time_that_can_be_leaves_the_dos_time() {
        for field in [
            extra(EXTENDED_TIMESTAMP, &[]),
            extra(EXTENDED_TIMESTAMP, &[2, 1, 0, 0, 0]),
            extra(EXTENDED_TIMESTAMP, &[1, 1, 0]),
            extra(EXTENDED_TIMESTAMP, &[1, 0, 0, 0, 0]),
            extra(EXTENDED_TIMESTAMP, &[1, 0, 0, 0, 0x80]),
            extra(NTFS, &[0; 4]),
            extra(NTFS, &[0; 3]),
            extra(INFO_ZIP_UNIX, &[1; 7]),
            extra(NTFS, &[&[0; 4][..], &extra(NTFS_TIMES, &[0xff; 24])].concat()),
            vec![0x55, 0x54, 9, 0, 1],
        ] {
            assert_eq!(modified(TIME, DATE, &field), Some(DOS), "{field:?}");
        }
    }
}
