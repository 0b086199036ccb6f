// SPDX-License-Identifier: Apache-2.0

//! References to images: registry, repository, and a tag or digest.
//!
//! The grammar is that of the distribution project's `reference` package
//! (<https://github.com/distribution/reference>), with the short names that Docker users write
//! (`nginx`, `team/app`) completed for base images. A build's *target* must name its registry: a
//! short name there would silently mean Docker Hub, which is how users of KubeSphere's B2I lost
//! images to `docker.io/library` (kubesphere#4958).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// Points at an image in a registry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, bincode::Encode)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses the target of a build: the registry must be written, a digest must not, and a
    /// missing tag means `latest`.
    ///
    /// # Errors
    ///
    /// Says what part of `text` is wrong and how to write it.
    pub fn parse_target(text: &str) -> Result<Self, ParseReferenceError> {
        let mut reference = parse(text, Short::Refused)?;
        if reference.digest.is_some() {
            return Err(error(text, "a build cannot choose its digest: name a tag instead"));
        }
        reference.tag.get_or_insert_with(|| "latest".to_owned());
        Ok(reference)
    }

    /// Parses the name of an image that is pushed nowhere: as a target, but the registry may be left
    /// out, as Docker's users do.
    ///
    /// # Errors
    ///
    /// Says what part of `text` is wrong and how to write it.
    pub fn parse_name(text: &str) -> Result<Self, ParseReferenceError> {
        let completed = parse(text, Short::Completed)?;
        Self::parse_target(&completed.to_string()).map_err(|wrong| error(text, wrong.why))
    }

    /// Returns the name as Docker's users write it and `docker save` does: without the registry if
    /// that is Docker Hub.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = self.to_string();
        let short = name.strip_prefix("docker.io/");
        let short = short.map(|short| short.strip_prefix("library/").unwrap_or(short));
        short.map_or_else(|| name.clone(), str::to_owned)
    }

    /// Returns the registry's host, with its port if one was written.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository: the path inside the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, if one was written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was written.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the reference that a manifest request uses: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// Returns the same repository at another tag.
    ///
    /// # Errors
    ///
    /// When `tag` is not a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        check_tag(tag, tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Returns the same repository at a digest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns the registry and repository, without tag or digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {why}")]
pub struct ParseReferenceError {
    text: String,
    why: Cow<'static, str>,
}

fn error(text: &str, why: impl Into<Cow<'static, str>>) -> ParseReferenceError {
    ParseReferenceError { text: shown(text), why: why.into() }
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Says how to write a target that names no registry.
fn without_registry(text: &str) -> ParseReferenceError {
    let short = shown(text);
    let why = if short.contains('/') {
        format!(
            "name the registry first: docker.io/{short} for Docker Hub, or another, as in \
            registry.example/{short}"
        )
    } else {
        format!(
            "name the registry first: write docker.io/library/{short} for what Docker calls \
            {short}, docker.io/you/{short} for one of yours on Docker Hub, or another registry, as \
            in registry.example/team/{short}"
        )
    };
    error(text, why)
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    /// Parses a reference, completing Docker's short names: `nginx` is `docker.io/library/nginx`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, Short::Completed)
    }
}

enum Short {
    Completed,
    Refused,
}

fn parse(text: &str, short: Short) -> Result<Reference, ParseReferenceError> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| {
                error(text, "what follows `@` must be sha256: and 64 hexadecimal digits")
            })?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it belongs to the registry's port.
    let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_start..].find(':') {
        Some(colon) => (&rest[..path_start + colon], Some(&rest[path_start + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(text, tag)?;
    }
    let (registry, repository) = match (split_registry(name), short) {
        (Some((registry, repository)), _) => (registry.to_owned(), repository.to_owned()),
        (None, Short::Refused) => return Err(without_registry(text)),
        (None, Short::Completed) if name.contains('/') => {
            (DEFAULT_REGISTRY.to_owned(), name.to_owned())
        }
        (None, Short::Completed) => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
    };
    check_registry(text, &registry)?;
    check_repository(text, &repository)?;
    Ok(Reference { registry, repository, tag: tag.map(str::to_owned), digest })
}

/// The first component is a registry if it could not be part of a repository: it holds a dot or a
/// port, or is `localhost`.
fn split_registry(name: &str) -> Option<(&str, &str)> {
    let (first, rest) = name.split_once('/')?;
    (first == "localhost" || first.contains(['.', ':'])).then_some((first, rest))
}

fn check_registry(text: &str, registry: &str) -> Result<(), ParseReferenceError> {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(error(text, "the registry's IPv6 address does not parse"));
            }
            ("v6", port.strip_prefix(':').or((port.is_empty()).then_some("443")))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, Some("443")),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !host.split('.').all(label) {
        return Err(error(text, "the registry's host name does not parse"));
    }
    let is_port = |port: &str| {
        // A sign parses as part of a number.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if !port.is_some_and(is_port) {
        return Err(error(text, "the registry's port must be a number from 1 to 65535"));
    }
    Ok(())
}

fn check_repository(text: &str, repository: &str) -> Result<(), ParseReferenceError> {
    if repository.is_empty() || repository.len() > MAX_REPOSITORY {
        return Err(error(text, "the repository must have 1 to 255 characters"));
    }
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    Err(error(
        text,
        "the repository may hold lowercase letters and digits, joined by `.`, `_`, `__` or \
        dashes, in components separated by `/`",
    ))
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = component
        .split(|character: char| character.is_ascii() && alphanumeric(character as u8))
        .filter(|separator| !separator.is_empty());
    let ends_well = component.bytes().next().is_some_and(alphanumeric)
        && component.bytes().last().is_some_and(alphanumeric);
    ends_well
        && separators.into_iter().all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn check_tag(text: &str, tag: &str) -> Result<(), ParseReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
        && tag.bytes().next().is_some_and(word);
    if good {
        return Ok(());
    }
    Err(error(
        text,
        "a tag has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with a letter, a digit \
        or `_`",
    ))
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<C> bincode::Decode<C> for Reference {
    fn decode<D: bincode::de::Decoder<Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        use bincode::error::DecodeError::OtherString;
        let reference = Self {
            registry: bincode::Decode::<C>::decode(decoder)?,
            repository: bincode::Decode::<C>::decode(decoder)?,
            tag: bincode::Decode::<C>::decode(decoder)?,
            digest: bincode::Decode::<C>::decode(decoder)?,
        };
        let text = reference.to_string();
        match parse(&text, Short::Refused) {
            Ok(parsed) if parsed == reference => Ok(reference),
            Ok(_) => Err(OtherString(format!("`{text}` is not in its normal form"))),
            Err(error) => Err(OtherString(error.to_string())),
        }
    }
}

bincode::impl_borrow_decode!(Reference);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_of_bases_are_completed() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx"),
            ("nginx:1", "docker.io/library/nginx:1"),
            ("team/app", "docker.io/team/app"),
            ("localhost/app", "localhost/app"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            (
                "gcr.io/distroless/static-debian12:nonroot",
                "gcr.io/distroless/static-debian12:nonroot",
            ),
        ] {
            assert_eq!(short.parse::<Reference>().expect(short).to_string(), full);
        }
    }

    #[test]
    fn targets_must_name_their_registry_and_no_digest() {
        let with_digest = format!("r.example/app@{}", Digest::of(b""));
        for text in ["app", "team/app:1", with_digest.as_str()] {
            assert!(Reference::parse_target(text).is_err(), "{text}");
        }
        for (text, written) in [
            ("app:1", "write docker.io/library/app:1 for what Docker calls app:1"),
            ("team/app:1", "docker.io/team/app:1 for Docker Hub"),
        ] {
            let error = Reference::parse_target(text).expect_err(text).to_string();
            assert!(error.contains(written) && error.contains("registry.example/"), "{error}");
        }
        let target = Reference::parse_target("127.0.0.1:5000/team/app").expect("a target");
        assert_eq!(target.to_string(), "127.0.0.1:5000/team/app:latest");
    }

    #[test]
    fn texts_outside_the_grammar_are_refused() {
        let long = format!("r.example/{}", "a".repeat(256));
        for text in [
            "",
            "/",
            "r.example/",
            "r.example/App",
            "r.example/a//b",
            "r.example/a:",
            "r.example/a:-x",
            "r.example/a@sha256:12",
            "r.example:99999/a",
            "r.example:x/a",
            "r.example:+5/a",
            "[::1]:+5/a",
            "-r.example/a",
            "r.example/a b",
            "r.example/a___b",
            "r.example/.a",
            "r.example/a.",
            "r.example/ä",
            "[::1/a",
            "[zz]:1/a",
            "https://r.example/a",
            long.as_str(),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!("[::1]:5000/a".parse::<Reference>().is_ok());
        assert!("r.example/a__b---c.d_e".parse::<Reference>().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn a_parsed_reference_is_written_in_a_form_that_parses_to_the_same(
            text in "[a-z0-9.:/@_-]{1,40}",
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                let again = reference.to_string().parse::<Reference>();
                proptest::prop_assert_eq!(again, Ok(reference));
            }
        }
    }
}
