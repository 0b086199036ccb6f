// SPDX-License-Identifier: Apache-2.0

//! The bytes of a build request in the queue: bincode, behind this one file.
//!
//! bincode 2 is finished and no longer maintained (RUSTSEC-2025-0141), so nothing else in Slipway
//! may name it for wire data; should it have to go, it goes from here. Its format is fixed by the
//! golden bytes in the tests: they must never change once a release has written them, and no
//! release has yet. A new shape of
//! request is a new variant of `Versioned`, added at the end, with golden bytes of its own.

use crate::{BuildRequest, Digest};

/// The version that [`encode`] writes, as sent in the header `Slipway-Schema`.
pub const SCHEMA: &str = "1";

/// The largest encoded request in bytes.
///
/// Far above any real request and far below NATS's default `max_payload` of 1 MiB. It also bounds
/// what decoding may allocate, so a corrupt length cannot ask for gigabytes.
pub const MAX_ENCODED: usize = 256 * 1024;

#[derive(bincode::Encode, bincode::Decode)]
enum Versioned {
    V1(BuildRequest),
}

/// Why bytes are not a build request that this version understands.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The request is larger than [`MAX_ENCODED`].
    #[error("the request takes {0} bytes encoded, more than the {MAX_ENCODED} allowed")]
    TooLarge(usize),
    /// The bytes are of a version this program does not know.
    #[error(
        "the request has schema version {0}, which this version of slipway does not know: update it"
    )]
    UnknownVersion(u64),
    /// The bytes are not a request at all.
    #[error("the bytes are not a build request")]
    Malformed(#[source] bincode::error::DecodeError),
    /// There are bytes behind the request.
    #[error("{0} bytes follow the build request")]
    Trailing(usize),
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_ENCODED>()
}

/// Encodes a request as the newest version.
///
/// # Errors
///
/// When the request is larger than [`MAX_ENCODED`].
pub fn encode(request: &BuildRequest) -> Result<Vec<u8>, CodecError> {
    let versioned = Versioned::V1(request.clone());
    let bytes = bincode::encode_to_vec(versioned, configuration())
        .expect("a request holds nothing that bincode cannot write");
    if bytes.len() > MAX_ENCODED {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes a request of any known version.
///
/// # Errors
///
/// When the bytes are not a whole request of a known version.
pub fn decode(bytes: &[u8]) -> Result<BuildRequest, CodecError> {
    if bytes.len() > MAX_ENCODED {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let malformed = CodecError::Malformed;
    let (versioned, read): (Versioned, usize) = bincode::decode_from_slice(bytes, configuration())
        .map_err(|error| match error {
            bincode::error::DecodeError::UnexpectedVariant { type_name, found, .. }
                if type_name.ends_with("Versioned") =>
            {
                CodecError::UnknownVersion(u64::from(found) + 1)
            }
            other => malformed(other),
        })?;
    if read < bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - read));
    }
    let Versioned::V1(request) = versioned;
    if request.references.is_empty() {
        return Err(malformed(bincode::error::DecodeError::Other("no reference")));
    }
    Ok(request)
}

/// Computes the digest that is sent in the header `Slipway-Spec-Digest` and checked by the worker,
/// so that a request corrupted in storage never becomes an image.
#[must_use]
pub fn spec_digest(encoded: &[u8]) -> Digest {
    Digest::of(encoded)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::platform::Architecture;
    use crate::request::{Artifact, Base, Compression, Layering, Note, PlatformPart, Port, Recipe};
    use crate::{ArtifactKind, BuildId, Platform, Priority};

    pub(crate) fn request() -> BuildRequest {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let artifact = Artifact {
            digest: Digest::of(b"artifact"),
            size_bytes: 48_234_496,
            kind: ArtifactKind::Jar,
            filename: "app.jar".into(),
        };
        let recipe = Recipe {
            environment: "java-17".into(),
            base: Base::Image(
                "docker.io/library/eclipse-temurin:17-jre".parse().expect("a reference"),
            ),
            layering: Layering::Jar,
            destination: "/app".into(),
            entrypoint: Some(vec!["java".into(), "{launch}".into()]),
            command: Some(vec![]),
            user: Some("65532:65532".into()),
            working_dir: None,
            writable: vec!["/home/app".into()],
            ports: vec![Port::tcp(8080)],
            env: map(&[]),
            env_aliases: map(&[("JAVA_OPTIONS", "JAVA_TOOL_OPTIONS")]),
            labels: map(&[]),
            file_mode: 0o644,
            owner: (0, 0),
            java: Some(17),
        };
        BuildRequest {
            build: "01890a5d-ac96-774b-bcce-b302099a8057".parse::<BuildId>().expect("an id"),
            project: "team".parse().expect("a name"),
            artifact: artifact.clone(),
            references: vec!["registry.example/team/app:1.4".parse().expect("a reference")],
            recipe: recipe.clone(),
            env: map(&[("JAVA_OPTIONS", "-Xmx256m")]),
            labels: map(&[("team", "a")]),
            annotations: map(&[("note", "n")]),
            ports: vec!["9090/udp".parse().expect("a port")],
            args: vec!["--verbose".into()],
            user: None,
            platform: Platform::LINUX_AMD64,
            priority: Priority::Normal,
            pool: "default".parse().expect("a name"),
            registry_secret: Some("dockerhub".parse().expect("a name")),
            timeout_s: 600,
            max_attempts: 5,
            queue_timeout_s: 3600,
            stall_timeout_s: 60,
            supersede_key: Some("main".into()),
            retry_of: Some("01890a5d-ac96-774b-bcce-b302099a8058".parse().expect("an id")),
            compression: Compression::Zstd,
            notes: vec![Note::found("its classes need Java 17"), Note::warning("it may not start")],
            further_platforms: vec![PlatformPart {
                platform: Architecture::Arm64.into(),
                artifact,
                recipe,
            }],
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Golden bytes: a dispatcher and a worker of different versions must agree on them. If this
    /// fails, the change needs a new version, not new bytes here.
    #[test]
    fn version_1_has_the_bytes_it_always_had() {
        insta::assert_snapshot!(hex(&encode(&request()).expect("it encodes")));
    }

    #[test]
    fn a_request_survives_the_codec() {
        let bytes = encode(&request()).expect("it encodes");
        assert_eq!(decode(&bytes).expect("it decodes"), request());
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = encode(&request()).expect("it encodes");
        bytes[0] = 1;
        let error = decode(&bytes).expect_err("the version is unknown");
        assert!(matches!(error, CodecError::UnknownVersion(2)), "{error:?}");
        assert_eq!(
            error.to_string(),
            "the request has schema version 2, which this version of slipway does not know: update it"
        );
    }

    #[test]
    fn the_last_version_that_bytes_can_name_is_refused_too() {
        // bincode's marker of a number of four bytes, and the largest one.
        let error = decode(&[0xfc, 0xff, 0xff, 0xff, 0xff]).expect_err("the version is unknown");
        assert!(matches!(error, CodecError::UnknownVersion(0x1_0000_0000)), "{error:?}");
    }

    #[test]
    fn truncated_and_lengthened_bytes_are_refused() {
        let bytes = encode(&request()).expect("it encodes");
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "the first {end} bytes decoded");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode(&longer), Err(CodecError::Trailing(1))));
    }

    #[test]
    fn a_port_that_no_text_can_say_is_refused() {
        let mut zero = request();
        zero.ports = vec![Port { number: 0, ..Port::tcp(1) }];
        let bytes = encode(&zero).expect("it encodes");
        assert!(matches!(decode(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_request_that_is_too_large_is_refused_when_it_is_written() {
        let mut large = request();
        large.env.insert("BIG".into(), "x".repeat(MAX_ENCODED));
        assert!(matches!(encode(&large), Err(CodecError::TooLarge(_))));
    }

    #[test]
    fn bytes_that_are_too_many_are_refused_before_they_are_read() {
        let error = decode(&vec![0; MAX_ENCODED + 1]).expect_err("they are too many");
        assert!(matches!(error, CodecError::TooLarge(_)), "{error:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _outcome = decode(&bytes);
        }

        #[test]
        fn flipped_bits_never_decode_to_the_same_request(position in 0usize..400, bit in 0u8..8) {
            let original = encode(&request()).expect("it encodes");
            let mut bytes = original.clone();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            prop_assert_ne!(spec_digest(&bytes), spec_digest(&original));
            if let Ok(decoded) = decode(&bytes) {
                prop_assert_ne!(decoded, request());
            }
        }
    }
}
