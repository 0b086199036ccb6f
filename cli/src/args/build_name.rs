// SPDX-License-Identifier: Apache-2.0

//! How people name a build: by its id, or by the first characters of it.

use std::fmt;
use std::str::FromStr;

use slipway_proto::BuildId;

/// The length of an id.
const LENGTH: usize = 36;

/// A build's id, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildName {
    /// Its id.
    Whole(BuildId),
    /// The first characters of it.
    Beginning(String),
}

/// A text that no id begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write the id of the build as `slipway list` shows it, or its first characters")]
pub struct ParseBuildNameError;

impl FromStr for BuildName {
    type Err = ParseBuildNameError;

    fn from_str(text: &str) -> Result<Self, ParseBuildNameError> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Whole(id));
        }
        let fits = |(place, byte): (usize, u8)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'),
        };
        if (1..LENGTH).contains(&text.len()) && text.bytes().enumerate().all(fits) {
            return Ok(Self::Beginning(text.to_owned()));
        }
        Err(ParseBuildNameError)
    }
}

impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(id) => id.fmt(f),
            Self::Beginning(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_named_by_any_beginning() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert!(matches!(id.parse(), Ok(BuildName::Whole(_))));
        for length in 1..id.len() {
            let name = BuildName::Beginning(id[..length].to_owned());
            assert_eq!(id[..length].parse(), Ok(name), "{length}");
        }
        for text in ["", "-", "x", "0189-", "01890a5dac96", "01890A", &format!("{id}0"), "zzzzzzzz"]
        {
            assert!(text.parse::<BuildName>().is_err(), "{text}");
        }
    }
}
