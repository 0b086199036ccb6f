// SPDX-License-Identifier: Apache-2.0

//! The operating system and processor an image is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A processor architecture by the name that Go and the OCI image specification give it
/// ("OCI Image Index Specification", `platform.architecture`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// Every architecture, with its name. The order is that of their numbers in the queue.
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

/// The generation of a processor within its architecture: the 7 of `linux/arm/v7`.
///
/// Only what tells programs apart is kept: 5 to 8 of ARM, 9 of 64-bit ARM, 2 to 4 of x86-64. The
/// first generation of an architecture (`arm64/v8`, `amd64/v1`) has no variant, as in containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant(u8);

impl Variant {
    /// Makes the variant of an architecture by its number.
    #[must_use]
    pub fn new(architecture: Architecture, number: u8) -> Option<Self> {
        let numbers = match architecture {
            Architecture::Arm => 5..=8,
            Architecture::Arm64 => 9..=9,
            Architecture::Amd64 => 2..=4,
            _ => return None,
        };
        numbers.contains(&number).then_some(Self(number))
    }

    /// Returns its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// What an image runs on. Only Linux is built for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// The processor architecture.
    pub architecture: Architecture,
    /// The variant of the architecture, if one is named.
    pub variant: Option<Variant>,
}

impl Platform {
    /// The default platform where nothing says otherwise.
    pub const LINUX_AMD64: Self = Self { architecture: Architecture::Amd64, variant: None };

    /// Makes the Linux platform that the documents of an image name: the properties `architecture`
    /// and `variant` of an index or a config, in any of their spellings.
    #[must_use]
    pub fn of_image(architecture: &str, variant: Option<&str>) -> Option<Self> {
        let (architecture, implied) = architecture_of(architecture)?;
        let variant = variant.filter(|variant| !variant.is_empty());
        let variant = match variant {
            None => implied.and_then(|number| Variant::new(architecture, number)),
            Some(text) => parse_variant(architecture, text)?,
        };
        Some(Self { architecture, variant })
    }

    /// Returns the number of its variant, or the one that is meant where none is named.
    #[must_use]
    pub fn generation(self) -> u8 {
        match (self.variant, self.architecture) {
            (Some(variant), _) => variant.0,
            (None, Architecture::Arm) => 7,
            (None, Architecture::Arm64) => 8,
            (None, _) => 1,
        }
    }

    /// Returns how well a base serves this platform, lower being better; `None` if not at all.
    ///
    /// A processor runs what was made for earlier generations of its architecture, so the newest of
    /// those is best (containerd, `platforms.Only`). A variant that an executable needs is the
    /// least that it runs on (`from_executable`). Then later generations serve it too, at the cost
    /// of what they leave out, and come before earlier ones, whose libraries it may not find.
    /// 32-bit ARM without a variant is v7, as for containerd and skopeo.
    #[must_use]
    pub fn rank(self, base: Self, from_executable: bool) -> Option<u8> {
        if self.architecture != base.architecture {
            return None;
        }
        let (wanted, has) = (self.generation(), base.generation());
        match (wanted.checked_sub(has), from_executable) {
            (Some(older), false) => Some(older),
            (None, false) => None,
            (Some(0), true) => Some(0),
            (Some(older), true) => Some(older + 16),
            (None, true) => Some(has - wanted),
        }
    }
}

impl From<Architecture> for Platform {
    fn from(architecture: Architecture) -> Self {
        Self { architecture, variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture.as_str())?;
        match self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In the queue a platform is one number: that of its architecture, and 16 times its variant. So a
/// platform without a variant has the bytes that it had before there were variants.
impl bincode::Encode for Platform {
    fn encode<E: bincode::enc::Encoder>(
        &self,
        encoder: &mut E,
    ) -> Result<(), bincode::error::EncodeError> {
        let is_own = |(known, _): &(Architecture, &str)| *known == self.architecture;
        let index = Architecture::ALL.iter().position(is_own).expect("the table is complete");
        let index = u32::try_from(index).expect("the table is short");
        let variant = self.variant.map_or(0, |variant| u32::from(variant.0));
        bincode::Encode::encode(&(variant * 16 + index), encoder)
    }
}

impl<C> bincode::Decode<C> for Platform {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        let number: u32 = bincode::Decode::<C>::decode(decoder)?;
        let unknown = || bincode::error::DecodeError::Other("an unknown platform");
        let (variant, index) = (number / 16, (number % 16) as usize);
        let (architecture, _) = *Architecture::ALL.get(index).ok_or_else(unknown)?;
        if variant == 0 {
            return Ok(Self::from(architecture));
        }
        let variant = u8::try_from(variant).ok();
        let variant = variant.and_then(|number| Variant::new(architecture, number));
        Ok(Self { architecture, variant: Some(variant.ok_or_else(unknown)?) })
    }
}

bincode::impl_borrow_decode!(Platform);

/// A text that is not a platform Slipway builds for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: use linux/amd64, linux/arm64, linux/arm/v7, linux/arm/v6, \
    linux/arm/v5, linux/386, linux/ppc64le, linux/riscv64 or linux/s390x"
)]
pub struct ParsePlatformError(String);

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// Reads a platform in the spellings that Docker and containerd take: with or without `linux/`,
    /// with or without a variant, and by the names that `uname -m` prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("linux/").unwrap_or(&lower);
        let (architecture, variant) = match name.split_once('/') {
            Some((_, "")) => ("", None),
            Some((architecture, variant)) => (architecture, Some(variant)),
            None => (name, None),
        };
        Self::of_image(architecture, variant)
            .ok_or_else(|| ParsePlatformError(text.chars().take(100).collect()))
    }
}

/// Returns an architecture by any of its names, and the number of the variant that the name implies
/// (containerd, `platforms/database.go`; Debian's names of its ports).
fn architecture_of(name: &str) -> Option<(Architecture, Option<u8>)> {
    let known = Architecture::ALL.iter().find(|(_, known)| *known == name);
    if let Some((architecture, _)) = known {
        return Some((*architecture, None));
    }
    Some(match name {
        "x86_64" | "x86-64" | "x64" => (Architecture::Amd64, None),
        "aarch64" => (Architecture::Arm64, None),
        "armhf" | "armv7" | "armv7l" => (Architecture::Arm, Some(7)),
        "armv6" | "armv6l" => (Architecture::Arm, Some(6)),
        "armel" => (Architecture::Arm, Some(5)),
        "i386" | "i486" | "i586" | "i686" | "x86" => (Architecture::I386, None),
        "powerpc64le" | "ppc64el" => (Architecture::Ppc64le, None),
        _ => return None,
    })
}

/// Reads a variant, with or without its `v`. The outer `None` means that it is none.
fn parse_variant(architecture: Architecture, text: &str) -> Option<Option<Variant>> {
    let number: u8 = text.strip_prefix('v').unwrap_or(text).parse().ok()?;
    let is_first =
        matches!((architecture, number), (Architecture::Amd64, 1) | (Architecture::Arm64, 8));
    if is_first {
        return Some(None);
    }
    Variant::new(architecture, number).map(Some)
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
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(architecture, _)| *architecture).ok_or_else(|| {
            serde::de::Error::custom(format!("`{name}` is not an architecture of an image"))
        })
    }
}

impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Variant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.strip_prefix('v').and_then(|number| number.parse().ok());
        number
            .filter(|number| (2..=9).contains(number))
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a variant")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_platform_is_read_in_every_usual_spelling() {
        for (text, printed) in [
            ("linux/amd64", "linux/amd64"),
            ("amd64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("x86_64", "linux/amd64"),
            ("linux/x86-64", "linux/amd64"),
            ("linux/arm64", "linux/arm64"),
            ("arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("arm/v6", "linux/arm/v6"),
            ("linux/arm/5", "linux/arm/v5"),
            ("armhf", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("armel", "linux/arm/v5"),
            ("armv7l", "linux/arm/v7"),
            ("Linux/ARM64", "linux/arm64"),
            ("i386", "linux/386"),
            ("linux/386", "linux/386"),
            ("ppc64el", "linux/ppc64le"),
            ("riscv64", "linux/riscv64"),
            ("s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(text).to_string(), printed, "{text}");
            assert_eq!(platform(printed), platform(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused_with_a_list() {
        for text in [
            "",
            "linux",
            "linux/",
            "linux/z80",
            "windows/amd64",
            "linux/arm/v4",
            "linux/arm/v9",
            "linux/arm/",
            "linux/arm64/v7",
            "linux/amd64/v5",
            "linux/386/v2",
            "linux/arm/v7/x",
            "linux/linux/amd64",
        ] {
            let error = text.parse::<Platform>().expect_err(text).to_string();
            assert!(error.contains("linux/arm/v7"), "{error}");
        }
    }

    #[test]
    fn every_platform_survives_the_codec_and_old_ones_keep_their_bytes() {
        let configuration = bincode::config::standard();
        for (index, (architecture, _)) in Architecture::ALL.into_iter().enumerate() {
            for number in 0..=20 {
                let variant = Variant::new(architecture, number);
                let platform = Platform { architecture, variant };
                let bytes = bincode::encode_to_vec(platform, configuration).expect("it encodes");
                if variant.is_none() {
                    assert_eq!(bytes, [u8::try_from(index).expect("few")]);
                }
                let (decoded, _): (Platform, usize) =
                    bincode::decode_from_slice(&bytes, configuration).expect("it decodes");
                assert_eq!(decoded, platform);
            }
        }
        // An unknown architecture, and a variant that its architecture does not have.
        for byte in [7, 15, 16 * 7] {
            let decoded: Result<(Platform, usize), _> =
                bincode::decode_from_slice(&[byte], configuration);
            assert!(decoded.is_err(), "{byte}");
        }
    }

    /// Returns the bases that serve a platform, the best first.
    fn serving<'a>(wanted: &str, bases: &[&'a str], from_executable: bool) -> Vec<&'a str> {
        let rank = |base: &str| platform(wanted).rank(platform(base), from_executable);
        let mut serving: Vec<&str> =
            bases.iter().copied().filter(|base| rank(base).is_some()).collect();
        serving.sort_by_key(|base| rank(base));
        serving
    }

    #[test]
    fn a_processor_runs_what_was_made_for_earlier_ones() {
        let arm = ["arm/v5", "arm/v8", "arm/v6", "arm/v7", "arm64"];
        assert_eq!(serving("linux/arm", &arm, false), ["arm/v7", "arm/v6", "arm/v5"]);
        assert_eq!(serving("arm/v6", &arm, false), ["arm/v6", "arm/v5"]);
        assert_eq!(serving("arm/v5", &arm, false), ["arm/v5"]);
        assert_eq!(serving("arm64", &arm, false), ["arm64"]);
        let amd = ["amd64/v4", "amd64", "amd64/v2"];
        assert_eq!(serving("amd64", &amd, false), ["amd64"]);
        assert_eq!(serving("amd64/v3", &amd, false), ["amd64/v2", "amd64"]);
        // An entry of an index that names no variant of ARM is v7.
        assert_eq!(serving("arm/v7", &["arm/v6", "arm"], false), ["arm", "arm/v6"]);
    }

    #[test]
    fn an_executable_runs_on_later_ones_too() {
        let arm = ["arm/v5", "arm/v8", "arm/v7"];
        assert_eq!(serving("arm/v6", &arm, true), ["arm/v7", "arm/v8", "arm/v5"]);
        assert_eq!(serving("arm/v7", &arm, true), ["arm/v7", "arm/v8", "arm/v5"]);
    }

    #[test]
    fn the_documents_of_an_image_name_platforms() {
        let named = |architecture, variant| {
            Platform::of_image(architecture, variant).map(|platform| platform.to_string())
        };
        assert_eq!(named("arm", Some("v7")).as_deref(), Some("linux/arm/v7"));
        assert_eq!(named("arm64", Some("v8")).as_deref(), Some("linux/arm64"));
        assert_eq!(named("amd64", Some("")).as_deref(), Some("linux/amd64"));
        assert_eq!(named("amd64", None).as_deref(), Some("linux/amd64"));
        assert_eq!(named("mips", None), None);
        assert_eq!(named("arm", Some("x")), None);
    }
}
