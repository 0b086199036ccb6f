// SPDX-License-Identifier: Apache-2.0

//! The variant of 32-bit ARM that an executable needs.
//!
//! Its file header does not tell. A C library for soft float is v5's, one for hard float v6's or
//! v7's, and compilers leave the processor they compiled for in a section of attributes ("Addenda to,
//! and Errata in, the ABI for the Arm Architecture", section 3).

use std::io::Read as _;

use super::header::Header;
use super::truncated;
use crate::invalid::InspectError;
use crate::source::{Source, SourceReader};

/// The type of the section of attributes.
pub(super) const SHT_ARM_ATTRIBUTES: u64 = 0x7000_0003;
/// How much of it is read; compilers write some fifty bytes.
const LONGEST: u64 = 16 << 10;
const TAG_FILE: u8 = 1;
const TAG_CPU_ARCH: u64 = 6;
const TAG_COMPATIBILITY: u64 = 32;

/// The dynamic linkers of systems with soft float, whose programs find their libraries on no other.
const SOFT_FLOAT: [&str; 2] = ["/lib/ld-linux.so.3", "/lib/ld-musl-arm.so.1"];
/// The dynamic linker of Debian's hard float, which is made for v7.
const HARD_FLOAT: &str = "/lib/ld-linux-armhf.so.3";

/// Returns the number of the variant, if anything tells. `go` is the value of `GOARM` that Go
/// recorded.
pub(super) fn variant(
    header: &Header,
    source: &dyn Source,
    interpreter: Option<&str>,
    go: Option<&str>,
) -> Result<Option<u8>, InspectError> {
    if interpreter.is_some_and(|path| SOFT_FLOAT.contains(&path)) {
        return Ok(Some(5));
    }
    let go = go.and_then(|value| value.split(',').next()?.parse().ok());
    if let Some(number @ 5..=7) = go {
        return Ok(Some(number));
    }
    let compiled_for = match header.section(source, SHT_ARM_ATTRIBUTES)? {
        Some((offset, length)) => {
            if offset.checked_add(length).is_none_or(|end| end > source.len()) {
                return Err(truncated());
            }
            let mut bytes = Vec::new();
            SourceReader::new(source, offset, length.min(LONGEST)).read_to_end(&mut bytes)?;
            cpu_arch(&bytes, header)
        }
        None => None,
    };
    Ok(match compiled_for {
        Some(0..=5) => Some(5),
        // v6, and its extensions up to the small ones of microcontrollers.
        Some(6..=9 | 11 | 12) => Some(6),
        Some(10 | 13) => Some(7),
        Some(_) => Some(8),
        None => (interpreter == Some(HARD_FLOAT)).then_some(7),
    })
}

/// Returns `Tag_CPU_arch` of a section of attributes.
fn cpu_arch(bytes: &[u8], header: &Header) -> Option<u64> {
    let mut rest = bytes.strip_prefix(b"A")?;
    while rest.len() > 4 {
        let length = usize::try_from(header.number(rest, 0, 4)).ok()?;
        let vendor = rest.get(4..length)?;
        rest = rest.get(length..)?;
        let Some(mut parts) = vendor.strip_prefix(b"aeabi\0") else { continue };
        while parts.len() > 5 {
            let length = usize::try_from(header.number(parts, 1, 4)).ok()?;
            if parts[0] == TAG_FILE {
                return attribute(parts.get(5..length)?, TAG_CPU_ARCH);
            }
            parts = parts.get(length.max(5)..)?;
        }
    }
    None
}

/// Returns a number among attributes, each of which is a tag and a number or a text.
fn attribute(mut rest: &[u8], wanted: u64) -> Option<u64> {
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        let is_text = matches!(tag, 4 | 5) || (tag > TAG_COMPATIBILITY && tag % 2 == 1);
        if tag == TAG_COMPATIBILITY {
            number(&mut rest)?;
        }
        if is_text || tag == TAG_COMPATIBILITY {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
            continue;
        }
        let value = number(&mut rest)?;
        if tag == wanted {
            return Some(value);
        }
    }
    None
}

/// Reads a number of seven bits a byte, the lowest first (ULEB128).
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
