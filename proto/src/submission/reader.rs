// SPDX-License-Identifier: Apache-2.0

//! Reads the fields of a request one by one, keeping every mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::{FIELDS, FieldError};
use crate::environment::edit_distance;
use crate::request::{Compression, Port};
use crate::{Digest, Platform, Priority};

/// Reads fields, keeping every mistake.
pub(super) struct Reader<'a> {
    pub(super) fields: &'a Map<String, Value>,
    pub(super) errors: Vec<FieldError>,
}

impl Reader<'_> {
    pub(super) fn mistake(&mut self, field: &str, code: &str, detail: &str) {
        self.errors.push(FieldError::new(field, code, detail.to_owned()));
    }

    pub(super) fn refuse_unknown(&mut self) {
        let unknown: Vec<&String> =
            self.fields.keys().filter(|name| !FIELDS.contains(&name.as_str())).collect();
        for name in unknown {
            let near = FIELDS.iter().map(|known| (edit_distance(name, known), known)).min();
            let hint = match near {
                Some((distance, known)) if distance <= 3 => format!(", did you mean `{known}`?"),
                _ => String::new(),
            };
            self.mistake(name, "unknown_field", &format!("there is no such field{hint}"));
        }
    }

    /// A field that is present and not `null`, which means the default.
    pub(super) fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn keep<T, E: fmt::Display>(
        &mut self,
        field: &str,
        code: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.mistake(field, code, &error.to_string())).ok()
    }

    pub(super) fn text(&mut self, field: &str) -> Option<String> {
        match self.value(field)?.clone() {
            Value::String(text) => Some(text),
            _ => {
                self.mistake(field, "wrong_type", "must be a text");
                None
            }
        }
    }

    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        field: &str,
        code: &str,
    ) -> Option<T> {
        let text = self.text(field)?;
        self.keep(field, code, text.parse())
    }

    pub(super) fn texts(&mut self, field: &str) -> Vec<String> {
        let texts = match self.value(field) {
            None => return Vec::new(),
            Some(Value::Array(values)) => {
                values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        texts.unwrap_or_else(|| {
            self.mistake(field, "wrong_type", "must be a list of texts");
            Vec::new()
        })
    }

    pub(super) fn pairs(
        &mut self,
        field: &str,
        code: &str,
        allowed: fn(&str) -> bool,
        rule: &str,
    ) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        let members = match self.value(field) {
            None => return pairs,
            Some(Value::Object(members)) => members.clone(),
            Some(_) => {
                self.mistake(field, "wrong_type", "must be an object of texts");
                return pairs;
            }
        };
        for (key, value) in members {
            let name = format!("{field}.{key}");
            match value {
                Value::String(text) if text.contains('\0') => {
                    self.mistake(&name, code, "the value must not hold a NUL character");
                }
                Value::String(text) if allowed(&key) => {
                    pairs.insert(key, text);
                }
                Value::String(_) => self.mistake(&name, code, rule),
                _ => self.mistake(&name, "wrong_type", "must be a text"),
            }
        }
        pairs
    }

    pub(super) fn ports(&mut self) -> Vec<Port> {
        let values = match self.value("ports") {
            None => return Vec::new(),
            Some(Value::Array(values)) => values.clone(),
            Some(_) => {
                self.mistake("ports", "wrong_type", "must be a list of ports");
                return Vec::new();
            }
        };
        let mut ports = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let field = format!("ports.{index}");
            ports.extend(self.keep::<Port, _>(&field, "invalid_port", text.parse()));
        }
        ports
    }

    /// One platform, or a list of them.
    pub(super) fn platforms(&mut self) -> Vec<Platform> {
        let names = match self.value("platform") {
            None => return Vec::new(),
            Some(Value::Array(_)) => self.texts("platform"),
            Some(_) => self.text("platform").into_iter().collect(),
        };
        let mut platforms = Vec::new();
        for name in names {
            platforms.extend(self.keep::<Platform, _>(
                "platform",
                "invalid_platform",
                name.parse(),
            ));
        }
        platforms
    }

    /// An artifact for each platform.
    pub(super) fn platform_artifacts(&mut self) -> BTreeMap<Platform, Digest> {
        let field = super::platforms::FIELD;
        let mut artifacts = BTreeMap::new();
        for (name, text) in self.pairs(field, "invalid_digest", |_| true, "") {
            let member = format!("{field}.{name}");
            let platform = self.keep::<Platform, _>(&member, "invalid_platform", name.parse());
            let digest = self.keep::<Digest, _>(&member, "invalid_digest", text.parse());
            artifacts.extend(platform.zip(digest));
        }
        artifacts
    }

    pub(super) fn priority(&mut self) -> Priority {
        let Some(text) = self.text("priority") else { return Priority::default() };
        match Priority::ALL.iter().find(|(_, name, _)| *name == text) {
            Some((priority, ..)) => *priority,
            None => {
                self.mistake("priority", "invalid_priority", "must be high, normal or low");
                Priority::default()
            }
        }
    }

    pub(super) fn compression(&mut self) -> Compression {
        let Some(text) = self.text("compression") else { return Compression::default() };
        match Compression::ALL.iter().find(|(_, name)| *name == text) {
            Some((compression, _)) => *compression,
            None => {
                self.mistake("compression", "invalid_compression", "must be gzip, zstd or none");
                Compression::default()
            }
        }
    }

    pub(super) fn number(
        &mut self,
        field: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u32> {
        let value = self.value(field)?.clone();
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => u32::try_from(number).ok(),
            None => {
                let detail = format!("must be a number from {} to {}", range.start(), range.end());
                self.mistake(field, "out_of_range", &detail);
                None
            }
        }
    }
}
