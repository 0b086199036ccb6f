// SPDX-License-Identifier: Apache-2.0

//! Typed identifiers.
//!
//! Every name here is at once a token of a NATS subject, a part of a key in a key-value bucket and
//! a segment of a URL, so one narrow alphabet serves all three: lowercase letters, digits and
//! dashes, as in a DNS label (RFC 1123).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {what}: use 1 to 63 lowercase letters, digits and dashes, with a letter or \
    digit at both ends"
)]
pub struct ParseNameError {
    what: &'static str,
    text: String,
}

fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode)]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if is_dns_label(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(ParseNameError { what: $what, text: text.chars().take(100).collect() })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> bincode::Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                <String as bincode::Decode<C>>::decode(decoder)?
                    .parse()
                    .map_err(|error: ParseNameError| {
                        bincode::error::DecodeError::OtherString(error.to_string())
                    })
            }
        }

        bincode::impl_borrow_decode!($name);
    )*};
}

names! {
    /// Names a project: the tenant that owns builds and artifacts.
    ProjectName = "project name";
    /// Names a pool of workers of one kind (architecture, network zone).
    PoolName = "pool name";
    /// Names a worker process; unique among the workers that run at one time.
    WorkerId = "worker id";
    /// Names the credentials for a registry; never the credentials themselves.
    SecretName = "secret name";
    /// Sets one installation apart from others on the same NATS: the first token of its subjects and
    /// the first part of the names of its streams and buckets.
    Prefix = "prefix";
}

impl Default for Prefix {
    /// Returns the prefix `slipway`.
    fn default() -> Self {
        Self("slipway".to_owned())
    }
}

impl Default for PoolName {
    /// Returns the pool `default`.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// The namespace of build ids derived from idempotency keys. It must never change, because two
/// dispatchers must derive the same id.
const IDEMPOTENCY_NAMESPACE: Uuid = Uuid::from_u128(0x6f0c_8a6d_0c0e_5d39_9d5f_2a7b_51c1_9a10);

/// Identifies a build.
///
/// A UUIDv7, so that ids sort by time, or a UUIDv5 of project and idempotency key, so that the
/// same key always names the same build (`docs/protocol.md`, "Accept").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildId(Uuid);

impl BuildId {
    /// Makes a fresh id from the clock and random bits.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// Derives the id that belongs to an idempotency key of a project.
    #[must_use]
    pub fn for_idempotency_key(project: &ProjectName, key: &str) -> Self {
        // A project name holds no NUL byte, so the pair is unambiguous.
        let name = format!("{project}\0{key}");
        Self(Uuid::new_v5(&IDEMPOTENCY_NAMESPACE, name.as_bytes()))
    }
}

impl BuildId {
    /// Returns the 16 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Makes an id from its 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl From<Uuid> for BuildId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a build id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a build id (a UUID)")]
pub struct ParseBuildIdError(String);

impl FromStr for BuildId {
    type Err = ParseBuildIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Only the hyphenated form: two spellings of one id would be two subjects.
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.as_hyphenated().to_string() == text => Ok(Self(uuid)),
            _ => Err(ParseBuildIdError(text.chars().take(100).collect())),
        }
    }
}

impl bincode::Encode for BuildId {
    fn encode<E: bincode::enc::Encoder>(
        &self,
        encoder: &mut E,
    ) -> Result<(), bincode::error::EncodeError> {
        self.0.as_bytes().encode(encoder)
    }
}

impl<C> bincode::Decode<C> for BuildId {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        Ok(Self(Uuid::from_bytes(<[u8; 16] as bincode::Decode<C>>::decode(decoder)?)))
    }
}

bincode::impl_borrow_decode!(BuildId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_are_refused() {
        let long = "a".repeat(64);
        for text in ["", "-a", "a-", "A", "a.b", "a b", "a*", "a>", "a/b", "ä", long.as_str()] {
            assert!(text.parse::<ProjectName>().is_err(), "{text}");
        }
        assert!("team-1".parse::<ProjectName>().is_ok());
    }

    #[test]
    fn the_same_key_of_another_project_is_another_build() {
        let one: ProjectName = "one".parse().expect("a name");
        let two: ProjectName = "two".parse().expect("a name");
        let id = BuildId::for_idempotency_key(&one, "key");
        assert_eq!(id, BuildId::for_idempotency_key(&one, "key"));
        assert_ne!(id, BuildId::for_idempotency_key(&two, "key"));
        // A constant of the protocol: a dispatcher of another version must derive the same.
        assert_eq!(id.to_string(), "69123087-c624-5802-9238-3bea8f564f94");
    }

    #[test]
    fn only_the_hyphenated_form_of_a_build_id_is_read() {
        let id = BuildId::fresh();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().replace('-', "").parse::<BuildId>().is_err());
        assert!(id.to_string().to_uppercase().parse::<BuildId>().is_err());
    }
}
