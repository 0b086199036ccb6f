// SPDX-License-Identifier: Apache-2.0

//! Reads the document of a batch, one build after the other.
//!
//! Each build becomes a [`Submission`] as soon as it is read, so only one at a time takes the
//! memory of a JSON document. Nothing is used before the whole batch was read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use slipway_proto::api::MAX_BATCH;
use slipway_proto::{FieldError, Submission};

use crate::builds::accept::Item;
use crate::http::extract::malformed;
use crate::http::problem::{ApiError, Code};
use crate::http::routes::builds::{IDEMPOTENCY_KEY_RULE, is_key};

/// The field of a build that is not part of its request.
const KEY: &str = "idempotency_key";

/// Reads a batch.
pub(super) fn read(body: &[u8]) -> Result<Vec<Item>, ApiError> {
    let mut read = Read::default();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let outcome = (&mut read).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match outcome {
        Ok(()) => {}
        // JSON, but not in the form of a batch.
        Err(error) if error.is_data() => {
            // The first mistake counts, even if the rest is not JSON.
            let detail = format!("must be an object with a list `builds`: {error}");
            read.mistake("", "not_a_batch", detail);
        }
        Err(error) => return Err(malformed(&error)),
    }
    if read.found.is_none() && read.mistakes.is_empty() {
        read.mistake("builds", "missing", "is required".to_owned());
    }
    match read.found {
        Some(0) => read.mistake("builds", "too_few", "must have at least one build".to_owned()),
        Some(found) if found > MAX_BATCH => {
            return Err(ApiError::new(
                Code::BatchTooLarge,
                format!(
                    "a batch has at most {MAX_BATCH} builds, and this one has {found}: send \
                    several batches"
                ),
            ));
        }
        _ => {}
    }
    if !read.mistakes.is_empty() {
        return Err(ApiError::fields(Code::InvalidRequest, read.mistakes));
    }
    Ok(read.items)
}

/// The part that was read so far.
#[derive(Debug, Default)]
struct Read {
    items: Vec<Item>,
    /// The number of builds. At most the allowed number is kept.
    found: Option<usize>,
    mistakes: Vec<FieldError>,
}

impl Read {
    fn mistake(&mut self, field: &str, code: &str, detail: String) {
        self.mistakes.push(FieldError { field: field.to_owned(), code: code.to_owned(), detail });
    }
}

impl<'de> DeserializeSeed<'de> for &mut Read {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Read {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a batch")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "builds" if self.found.is_some() => {
                    self.mistake("builds", "repeated_field", "is given twice".to_owned());
                    fields.next_value::<IgnoredAny>()?;
                }
                "builds" => fields.next_value_seed(Builds(self))?,
                "$schema" => drop(fields.next_value::<IgnoredAny>()?),
                other => {
                    let detail = "there is no such field: a batch has `builds`, and each of them \
                        the fields of a request";
                    self.mistake(other, "unknown_field", detail.to_owned());
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads the list.
struct Builds<'a>(&'a mut Read);

impl<'de> DeserializeSeed<'de> for Builds<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Builds<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of build requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut builds: A) -> Result<(), A::Error> {
        let read = self.0;
        let mut found = 0;
        while found < MAX_BATCH {
            let Some(document) = builds.next_element::<Value>()? else { break };
            found += 1;
            read.items.push(item(document));
        }
        while builds.next_element::<IgnoredAny>()?.is_some() {
            found += 1;
        }
        read.found = Some(found);
        Ok(())
    }
}

/// Separates the key from the request. Without it, the document is the same as in a single
/// submission, so both name the same build.
fn item(mut document: Value) -> Item {
    let key = document.as_object_mut().and_then(|fields| fields.remove(KEY));
    let mut mistakes = Vec::new();
    let key = match key {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) if is_key(&key) => Some(key),
        Some(_) => {
            mistakes.push(FieldError {
                field: KEY.to_owned(),
                code: "invalid_idempotency_key".to_owned(),
                detail: IDEMPOTENCY_KEY_RULE.to_owned(),
            });
            None
        }
    };
    Item { submission: Submission::read(&document), key, mistakes }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(document: &Value) -> Result<Vec<Item>, ApiError> {
        super::read(document.to_string().as_bytes())
    }

    fn codes(document: &Value) -> (u16, String, Vec<String>) {
        let problem = read(document).expect_err("it is refused").problem();
        let fields = problem.errors.iter().map(|error| format!("{}:{}", error.field, error.code));
        (problem.status, problem.code, fields.collect())
    }

    #[test]
    fn a_build_of_a_batch_is_the_document_that_is_submitted_alone() {
        let alone = json!({"artifact": "x", "image": "r.example/a:1", "env": {"A": "1"}});
        let mut keyed = alone.clone();
        keyed["idempotency_key"] = json!("k");
        let mut unkeyed = alone.clone();
        unkeyed["idempotency_key"] = json!(null);
        let items = read(&json!({"$schema": "x", "builds": [keyed, unkeyed]})).expect("it reads");
        let keys: Vec<Option<&str>> = items.iter().map(|item| item.key.as_deref()).collect();
        assert_eq!(keys, [Some("k"), None]);
        let digest = Submission::read(&alone).digest();
        assert!(items.iter().all(|item| item.submission.digest() == digest));
    }

    #[test]
    fn a_wrong_key_is_a_mistake_of_its_build_alone() {
        let builds = json!([{"idempotency_key": ""}, {"idempotency_key": 7}, {}, 3]);
        let items = read(&json!({"builds": builds})).expect("it reads");
        let mistakes: Vec<usize> = items.iter().map(|item| item.mistakes.len()).collect();
        assert_eq!(mistakes, [1, 1, 0, 0]);
    }

    #[test]
    fn a_batch_has_one_to_a_thousand_builds() {
        let batch = |count: usize| json!({"builds": vec![json!({}); count]});
        assert_eq!(read(&batch(MAX_BATCH)).expect("it reads").len(), MAX_BATCH);
        assert_eq!(codes(&batch(MAX_BATCH + 5)).1, "batch_too_large");
        let problem = read(&batch(MAX_BATCH + 5)).expect_err("it is refused").problem();
        assert!(problem.detail.contains("1005"), "{}", problem.detail);
        assert_eq!(codes(&batch(0)).2, ["builds:too_few"]);
    }

    #[test]
    fn what_is_no_batch_is_refused_with_all_its_mistakes() {
        assert_eq!(codes(&json!({})).2, ["builds:missing"]);
        assert_eq!(
            codes(&json!([{}])),
            (422, "invalid_request".into(), vec![":not_a_batch".into()])
        );
        assert_eq!(codes(&json!({"builds": {}})).2, [":not_a_batch"]);
        let document = json!({"build": [], "builds": []});
        assert_eq!(codes(&document).2, ["build:unknown_field", "builds:too_few"]);
        for broken in [
            "{\"builds\":[{},{]}",
            "{\"builds\":[{}]}x",
            "{\"builds\":[{}]",
            "{\"builds\":[1e999]}",
        ] {
            let problem = super::read(broken.as_bytes()).expect_err("it is refused").problem();
            assert_eq!(
                (problem.status, problem.code.as_str()),
                (400, "malformed_json"),
                "{broken}"
            );
        }
    }
}
