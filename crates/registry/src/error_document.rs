// SPDX-License-Identifier: Apache-2.0

//! The body of a registry's refusal (distribution specification 1.1, "Error Codes"), parsed once.
//!
//! Registries agree on `errors[].code` and little else: messages differ, details are texts, objects
//! or missing, and a proxy in front answers with HTML. So decisions are made by the code alone, never
//! by a search in the text: a message may quote a code, and the text that people see is cut short.

use serde::Deserialize;
use serde_json::Value;

/// The most characters of a registry's own words that are shown.
const MAX_SHOWN: usize = 300;

/// A code of the specification, or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorCode {
    /// `BLOB_UNKNOWN`: the repository has no such blob.
    BlobUnknown,
    /// `BLOB_UPLOAD_INVALID`: the upload session cannot be continued.
    BlobUploadInvalid,
    /// `BLOB_UPLOAD_UNKNOWN`: there is no such upload session.
    BlobUploadUnknown,
    /// `DIGEST_INVALID`: the bytes have another digest.
    DigestInvalid,
    /// `MANIFEST_BLOB_UNKNOWN`: a manifest names a blob that the repository does not have.
    ManifestBlobUnknown,
    /// `SIZE_INVALID`: the bytes have another length.
    SizeInvalid,
    /// `TOOMANYREQUESTS`: a rate limit.
    TooManyRequests,
    /// Any other code. Nothing is decided by it.
    Other(String),
}

impl From<&str> for ErrorCode {
    fn from(code: &str) -> Self {
        match code {
            "BLOB_UNKNOWN" => Self::BlobUnknown,
            "BLOB_UPLOAD_INVALID" => Self::BlobUploadInvalid,
            "BLOB_UPLOAD_UNKNOWN" => Self::BlobUploadUnknown,
            "DIGEST_INVALID" => Self::DigestInvalid,
            "MANIFEST_BLOB_UNKNOWN" => Self::ManifestBlobUnknown,
            "SIZE_INVALID" => Self::SizeInvalid,
            "TOOMANYREQUESTS" => Self::TooManyRequests,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Other(code) => code,
        })
    }
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorDocument {
    /// The codes, in the registry's order. Empty if the body is not an error document.
    pub(crate) codes: Vec<ErrorCode>,
    /// The registry's own words, for people: printable and at most 300 characters.
    pub(crate) text: String,
}

#[derive(Deserialize)]
struct Document {
    errors: Vec<Entry>,
}

/// One entry. Members of unexpected types are no reason to lose the others.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    detail: Value,
}

impl Entry {
    /// Returns what people see: the message, or the detail if there is no message.
    fn words(&self) -> String {
        let code = plain(&self.code);
        let message = match plain(&self.message) {
            message if message.is_empty() => plain(&self.detail),
            message => message,
        };
        format!("{code} {message}").trim().to_owned()
    }
}

impl ErrorDocument {
    /// Parses a body. One that is not an error document is only text.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let Ok(Document { errors }) = serde_json::from_slice(body) else {
            return Self { codes: Vec::new(), text: shown(&String::from_utf8_lossy(body)) };
        };
        let codes = errors.iter().filter_map(|entry| entry.code.as_str()).map(ErrorCode::from);
        let words: Vec<String> = errors.iter().map(Entry::words).collect();
        Self { codes: codes.collect(), text: shown(&words.join(", ")) }
    }
}

/// Returns a JSON value as text; nothing for what says nothing.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(members) if members.is_empty() => String::new(),
        other => other.to_string(),
    }
}

fn shown(text: &str) -> String {
    let printable = text.chars().filter(|character| !character.is_control());
    printable.take(MAX_SHOWN).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> (Vec<ErrorCode>, String) {
        let ErrorDocument { codes, text } = ErrorDocument::parse(body.as_bytes());
        (codes, text)
    }

    fn other(code: &str) -> ErrorCode {
        ErrorCode::Other(code.to_owned())
    }

    #[test]
    fn the_documents_of_registries_in_use_are_read() {
        // docker-registry 2.8: details are texts or objects.
        let (codes, text) = parse(
            r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content","detail":{"Digest":"sha256:00","Reason":{}}},
                {"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry","detail":"sha256:01"}]}"#,
        );
        assert_eq!(codes, [ErrorCode::DigestInvalid, ErrorCode::ManifestBlobUnknown]);
        assert_eq!(
            text,
            "DIGEST_INVALID provided digest did not match uploaded content, MANIFEST_BLOB_UNKNOWN blob unknown to registry"
        );
        // GHCR: no detail, and the message repeats the code.
        let ghcr = parse(r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#);
        assert_eq!(ghcr, (vec![other("DENIED")], "DENIED denied".to_owned()));
        // Harbor: a code of its own.
        let harbor = parse(
            r#"{"errors":[{"code":"NOT_FOUND","message":"artifact team/app:1 not found"}]}
"#,
        );
        assert_eq!(
            harbor,
            (vec![other("NOT_FOUND")], "NOT_FOUND artifact team/app:1 not found".to_owned())
        );
        // ECR: sentences.
        let ecr = parse(
            r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"The upload with id '1' does not exist in the repository with name 'team/app'"}]}"#,
        );
        assert_eq!(ecr.0, [ErrorCode::BlobUploadUnknown]);
        // Quay: an empty detail, or all that there is to say in the detail.
        let quay = parse(
            r#"{"errors":[{"code":"UNAUTHORIZED","detail":{},"message":"access to the requested resource is not authorized"},
                {"code":"MANIFEST_INVALID","detail":{"message":"failed schema validation"}}]}"#,
        );
        assert_eq!(quay.0, [other("UNAUTHORIZED"), other("MANIFEST_INVALID")]);
        assert!(quay.1.ends_with(r#"MANIFEST_INVALID {"message":"failed schema validation"}"#));
    }

    #[test]
    fn a_code_in_a_message_decides_nothing() {
        let quoting = r#"{"errors":[{"code":"UNKNOWN","message":"upstream said BLOB_UNKNOWN"}]}"#;
        assert_eq!(parse(quoting).0, [other("UNKNOWN")]);
        let (codes, text) = parse("BLOB_UNKNOWN");
        assert_eq!((codes, text.as_str()), (vec![], "BLOB_UNKNOWN"));
    }

    #[test]
    fn a_code_behind_the_text_that_is_shown_counts() {
        let long = "x".repeat(2 * MAX_SHOWN);
        let body = format!(
            r#"{{"errors":[{{"code":"UNKNOWN","message":"{long}"}},{{"code":"SIZE_INVALID"}}]}}"#
        );
        let (codes, text) = parse(&body);
        assert_eq!(codes, [other("UNKNOWN"), ErrorCode::SizeInvalid]);
        assert_eq!(text.chars().count(), MAX_SHOWN);
    }

    #[test]
    fn whatever_is_not_an_error_document_is_only_text() {
        for body in [
            "",
            "{",
            "null",
            r#"{"errors":"none"}"#,
            r#"{"errors":[1]}"#,
            r#"{"details":"incorrect username or password"}"#,
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"cut o"#,
        ] {
            assert_eq!(parse(body), (vec![], body.to_owned()), "{body}");
        }
        let html = "<html>\r\n<head><title>502 Bad Gateway</title></head>\n</html>";
        assert_eq!(
            parse(html),
            (vec![], "<html><head><title>502 Bad Gateway</title></head></html>".to_owned())
        );
        let odd = parse(r#"{"errors":[{"code":404},{"message":["a"]},{}]}"#);
        assert_eq!(odd, (vec![], r#"404, ["a"],"#.to_owned()));
    }
}
