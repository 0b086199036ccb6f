// SPDX-License-Identifier: Apache-2.0

//! The header `Content-Digest` (RFC 9530): a structured-fields dictionary of byte sequences,
//! `sha-256=:<base64>:`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use slipway_proto::Digest;

/// A header that cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentDigestError {
    /// The SHA-256 is not 32 bytes of Base64 between colons.
    #[error(
        "the Content-Digest header does not parse: write sha-256=:<Base64 of the 32 bytes>:, as \
        RFC 9530 says"
    )]
    Malformed,
    /// Only algorithms that are not computed here. The RFC lets a server ignore them, but a client
    /// that sends a digest expects a check.
    #[error("the Content-Digest header holds no sha-256, which is the only one that is checked")]
    Unsupported,
}

/// Reads the SHA-256 of a header value.
pub(crate) fn parse(header: &str) -> Result<Digest, ContentDigestError> {
    for member in header.split(',') {
        let (algorithm, value) =
            member.trim().split_once('=').ok_or(ContentDigestError::Malformed)?;
        if algorithm != "sha-256" {
            continue;
        }
        // Parameters may follow the value; RFC 9530 defines none.
        let value = value.split(';').next().unwrap_or_default().trim();
        let bytes: [u8; 32] = value
            .strip_prefix(':')
            .and_then(|value| value.strip_suffix(':'))
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ContentDigestError::Malformed)?;
        return Ok(Digest::from(bytes));
    }
    Err(ContentDigestError::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_the_rfc_is_read() {
        // RFC 9530, section 2: the digest of `{"hello": "world"}\n`.
        let header = "sha-512=:AAAA:, sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        assert_eq!(parse(header), Ok(Digest::of(b"{\"hello\": \"world\"}\n")));
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        assert_eq!(parse("sha-512=:AAAA:"), Err(ContentDigestError::Unsupported));
        for header in ["", "sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:AAAA:"] {
            assert_eq!(parse(header), Err(ContentDigestError::Malformed), "{header}");
        }
    }
}
