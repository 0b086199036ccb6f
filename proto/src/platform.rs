// SPDX-License-Identifier: Apache-2.0

//! The operating system and processor an image is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A processor architecture by the name that Go and the OCI image specification give it
/// ("OCI Image Index Specification", `platform.architecture`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode, bincode::Decode,
)]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// 32-bit ARM.
    Arm,
    /// 32-bit x86.
    I386,
    /// 64-bit little-endian POWER.
    Ppc64le,
    /// 64-bit RISC-V.
    Riscv64,
    /// IBM Z.
    S390x,
}

impl Architecture {
    /// Every architecture, with its name.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Amd64, "amd64"),
        (Self::Arm64, "arm64"),
        (Self::Arm, "arm"),
        (Self::I386, "386"),
        (Self::Ppc64le, "ppc64le"),
        (Self::Riscv64, "riscv64"),
        (Self::S390x, "s390x"),
    ];

    /// Returns the name used in image configs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(architecture, name)| (*architecture == self).then_some(*name))
            .expect("the table holds every architecture")
    }
}

/// What an image runs on. Only Linux is built for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct Platform {
    /// The processor architecture.
    pub architecture: Architecture,
}

impl Platform {
    /// The default platform where nothing says otherwise.
    pub const LINUX_AMD64: Self = Self { architecture: Architecture::Amd64 };
}

impl From<Architecture> for Platform {
    fn from(architecture: Architecture) -> Self {
        Self { architecture }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture.as_str())
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a platform Slipway builds for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: use linux/amd64, linux/arm64, linux/arm, linux/386, linux/ppc64le, \
    linux/riscv64 or linux/s390x"
)]
pub struct ParsePlatformError(String);

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("linux/")
            .and_then(|name| Architecture::ALL.iter().find(|(_, known)| *known == name))
            .map(|(architecture, _)| Self::from(*architecture))
            .ok_or_else(|| ParsePlatformError(text.chars().take(100).collect()))
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        format!("linux/{name}")
            .parse::<Platform>()
            .map(|platform| platform.architecture)
            .map_err(serde::de::Error::custom)
    }
}
