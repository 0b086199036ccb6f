// SPDX-License-Identifier: Apache-2.0

//! The build request as it travels through the queue.
//!
//! It is complete in itself: the environment has been resolved to a [`Recipe`], so a worker needs
//! no catalogue, and a build queued before a catalogue change is built as it was accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::SecretName;
use crate::{ArtifactKind, BuildId, Digest, Platform, PoolName, ProjectName, Reference};

/// An accepted request to build one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct BuildRequest {
    /// The build's id.
    pub build: BuildId,
    /// The tenant it belongs to.
    pub project: ProjectName,
    /// The uploaded file.
    pub artifact: Artifact,
    /// The references to tag, the first being the build's main one. Never empty.
    pub references: Vec<Reference>,
    /// How to make the image.
    pub recipe: Recipe,
    /// Environment variables merged over those of base and recipe.
    pub env: BTreeMap<String, String>,
    /// Labels of the image's config.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Ports the image declares in addition to those of base and recipe.
    pub ports: Vec<Port>,
    /// Arguments appended to the command.
    pub args: Vec<String>,
    /// The user to run as, in place of the recipe's.
    pub user: Option<String>,
    /// What the image runs on.
    pub platform: Platform,
    /// How urgent the build is within its pool.
    pub priority: Priority,
    /// The pool of workers that may take it.
    pub pool: PoolName,
    /// The name of the registry credentials to use instead of the default ones.
    pub registry_secret: Option<SecretName>,
    /// The longest time one attempt may take, in seconds.
    pub timeout_s: u32,
    /// How many charged attempts the build may have before it fails.
    pub max_attempts: u32,
    /// The longest time the build may wait for its first attempt, in seconds.
    pub queue_timeout_s: u32,
    /// The longest time a stage may go without moving a byte or saying a word, in seconds.
    pub stall_timeout_s: u32,
    /// What the build is about, say a branch: a later build of the project with the same key
    /// cancels it.
    pub supersede_key: Option<String>,
    /// The finished build that this one repeats.
    pub retry_of: Option<BuildId>,
    /// How the layers made of the artifact are stored.
    pub compression: Compression,
    /// What was found out about the artifact when the build was accepted.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// The further platforms of the image, by name, each with what its image is made of. With any,
    /// the build makes an index, and the fields above describe its first image.
    #[serde(default)]
    pub further_platforms: Vec<PlatformPart>,
}

impl BuildRequest {
    /// Returns the build's main reference.
    #[must_use]
    pub fn image(&self) -> &Reference {
        self.references.first().expect("a request has at least one reference")
    }

    /// Returns the platforms of the image, the first one first.
    pub fn platforms(&self) -> impl Iterator<Item = Platform> {
        let further = self.further_platforms.iter().map(|part| part.platform);
        std::iter::once(self.platform).chain(further)
    }

    /// Returns the artifacts that the build reads. Platforms may share one.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        let further = self.further_platforms.iter().map(|part| &part.artifact);
        std::iter::once(&self.artifact).chain(further)
    }

    /// Returns the artifacts that the build reads, to be changed.
    pub fn artifacts_mut(&mut self) -> impl Iterator<Item = &mut Artifact> {
        let further = self.further_platforms.iter_mut().map(|part| &mut part.artifact);
        std::iter::once(&mut self.artifact).chain(further)
    }

    /// Returns the requests for the image of each platform alone, in the order of
    /// [`platforms`](Self::platforms).
    #[must_use]
    pub fn for_each_platform(&self) -> Vec<Self> {
        let first = Self { further_platforms: Vec::new(), ..self.clone() };
        let further = self.further_platforms.iter().map(|part| Self {
            platform: part.platform,
            artifact: part.artifact.clone(),
            recipe: part.recipe.clone(),
            ..first.clone()
        });
        let further: Vec<Self> = further.collect();
        std::iter::once(first).chain(further).collect()
    }
}

/// What the image of one further platform is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct PlatformPart {
    /// What the image runs on.
    pub platform: Platform,
    /// Its artifact: that of the request for archives, one of its own for executables.
    pub artifact: Artifact,
    /// How the image is made.
    pub recipe: Recipe,
}

/// One sentence for people about an artifact: what was found in it, what was assumed because it
/// does not tell, or what may go wrong. The log of the build begins with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Note {
    /// Whether the image may not run.
    pub warning: bool,
    /// The sentence, without a full stop.
    pub text: String,
}

impl Note {
    /// Says what was found or assumed.
    #[must_use]
    pub fn found(text: impl Into<String>) -> Self {
        Self { warning: false, text: text.into() }
    }

    /// Says what may go wrong, and what to do about it.
    #[must_use]
    pub fn warning(text: impl Into<String>) -> Self {
        Self { warning: true, text: text.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.warning { "warning: " } else { "" };
        write!(f, "{mark}{}", self.text)
    }
}

/// The artifact of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Artifact {
    /// The digest that names it in the store.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its kind, as read from its bytes.
    pub kind: ArtifactKind,
    /// The name it was uploaded under, without any path; it decides names inside the image, such
    /// as a WAR's context path.
    pub filename: String,
}

/// A resolved environment: everything that determines how an artifact becomes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Recipe {
    /// The environment's name in the catalogue.
    pub environment: String,
    /// What the image starts from.
    pub base: Base,
    /// How the artifact is laid into layers.
    pub layering: Layering,
    /// Where it goes: an absolute path. `{file}` stands for the file name, `{name}` for the file
    /// name without its extension.
    pub destination: String,
    /// The entrypoint; an element `{launch}` stands for the arguments that start a JAR,
    /// `{artifact}` for the artifact's path, and `{$NAME}` for the words of a variable of the
    /// request. `None` keeps the base's, an empty list clears it.
    pub entrypoint: Option<Vec<String>>,
    /// The command, in the same form.
    pub command: Option<Vec<String>>,
    /// The user to run as; `None` keeps the base's.
    pub user: Option<String>,
    /// The working directory; `None` keeps the base's.
    pub working_dir: Option<String>,
    /// Directories that every user of the image can write to: absolute paths.
    #[serde(default)]
    pub writable: Vec<String>,
    /// Ports that the environment declares.
    pub ports: Vec<Port>,
    /// Variables that the environment sets.
    pub env: BTreeMap<String, String>,
    /// Variables whose value is also set under a second name that the base's software reads.
    pub env_aliases: BTreeMap<String, String>,
    /// Labels that the environment sets.
    pub labels: BTreeMap<String, String>,
    /// Mode of the artifact's file when it is copied unchanged.
    pub file_mode: u32,
    /// Owner of the files in the artifact's layers, as numeric user and group.
    pub owner: (u32, u32),
    /// The newest Java release that the base runs. `None` without Java, and where it is not known
    /// because the request has a base of its own.
    #[serde(default)]
    pub java: Option<u16>,
}

/// What an image starts from.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Base {
    /// Nothing: the image holds only the artifact's layers.
    Scratch,
    /// Another image.
    Image(Reference),
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => f.write_str("scratch"),
            Self::Image(reference) => fmt::Display::fmt(reference, f),
        }
    }
}

impl Serialize for Base {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "scratch" {
            return Ok(Self::Scratch);
        }
        text.parse().map(Self::Image).map_err(serde::de::Error::custom)
    }
}

/// How an artifact is divided into layers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode,
)]
#[serde(rename_all = "kebab-case")]
pub enum Layering {
    /// One file, unchanged, at the destination path.
    AsIs,
    /// A Spring Boot JAR, exploded into the layers it names. Any other JAR, unchanged, inside the
    /// destination directory.
    Jar,
    /// A WAR exploded in the destination directory, its libraries in a layer of their own.
    War,
    /// The files of a bundle in the destination directory, what changes rarely in layers of its
    /// own.
    Bundle,
}

/// How layers are stored. They unpack to the same files.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// One gzip member, which every registry and runtime reads. What is already compressed is
    /// stored unchanged.
    #[default]
    Gzip,
    /// Zstandard: smaller, and faster to make and to unpack. It needs Docker 23, containerd 1.5 or
    /// newer.
    Zstd,
    /// The tar archive uncompressed: nothing to compress or unpack, and the most to send.
    None,
}

impl Compression {
    /// All of them with their names.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Gzip, "gzip"), (Self::Zstd, "zstd"), (Self::None, "none")];

    /// Returns its name in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => "none",
        }
    }

    /// Returns the media type of such layers (OCI image specification, "Image Layer Filesystem
    /// Changeset").
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How urgent a build is within its pool. Classes are served in weighted turns, so that none
/// starves.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Served sixteen times for each `low`.
    High,
    /// Served four times for each `low`.
    #[default]
    Normal,
    /// Served last, but served.
    Low,
}

impl Priority {
    /// All classes with their names and their weight in a round of turns.
    pub const ALL: [(Self, &'static str, u32); 3] =
        [(Self::High, "high", 16), (Self::Normal, "normal", 4), (Self::Low, "low", 1)];

    /// Returns the class's name: a token of subjects and consumer names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port an image declares; written `8080`, or `8080/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bincode::Encode)]
pub struct Port {
    /// The port number, not 0.
    pub number: u16,
    /// Its transport.
    pub protocol: Protocol,
}

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Port {
    /// Makes a TCP port.
    #[must_use]
    pub fn tcp(number: u16) -> Self {
        Self { number, protocol: Protocol::Tcp }
    }
}

impl fmt::Display for Port {
    /// Writes the port as `ExposedPorts` of an image config has it: `8080/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// A text that is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port: write a number from 1 to 65535, or a number followed by /udp")]
pub struct ParsePortError(String);

impl FromStr for Port {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, protocol) = match text.split_once('/') {
            None => (text, Some(Protocol::Tcp)),
            Some((number, "tcp")) => (number, Some(Protocol::Tcp)),
            Some((number, "udp")) => (number, Some(Protocol::Udp)),
            Some((number, _)) => (number, None),
        };
        // A sign parses as part of a number.
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        match (number.parse(), protocol) {
            (Ok(number), Some(protocol)) if digits && number > 0 => Ok(Self { number, protocol }),
            _ => Err(ParsePortError(text.chars().take(100).collect())),
        }
    }
}

impl<C> bincode::Decode<C> for Port {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        let number = bincode::Decode::<C>::decode(decoder)?;
        let protocol = bincode::Decode::<C>::decode(decoder)?;
        if number == 0 {
            return Err(bincode::error::DecodeError::Other("the port 0"));
        }
        Ok(Self { number, protocol })
    }
}

bincode::impl_borrow_decode!(Port);

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.protocol {
            Protocol::Tcp => serializer.serialize_u16(self.number),
            Protocol::Udp => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_above_zero_without_a_sign() {
        assert_eq!("8080".parse(), Ok(Port::tcp(8080)));
        assert_eq!("53/udp".parse(), Ok(Port { number: 53, protocol: Protocol::Udp }));
        for text in ["", "0", "+80", "-80", "65536", "80/", "80/sctp", " 80", "80/tcp/tcp"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
    }
}
