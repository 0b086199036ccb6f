// SPDX-License-Identifier: Apache-2.0

//! The layer of the TOML file.

use std::ffi::OsString;
use std::path::Path;

use toml::de::DeTable;
use toml::{Table, Value};

use super::layers::{Layers, Schema};
use super::mistakes::{Mistakes, Origin};

/// Adds what a file says. A file that cannot be read or is not TOML is one mistake.
pub(super) fn read(path: &Path, schema: &Schema, layers: &mut Layers, mistakes: &mut Mistakes) {
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return mistakes.push(&shown, None, format!("cannot be read: {error}")),
    };
    let (table, keys) = match text.parse::<Table>().and_then(|t| Ok((t, DeTable::parse(&text)?))) {
        Ok(parsed) => parsed,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            let message = format!("is not TOML: line {line}: {}", error.message());
            return mistakes.push(&shown, None, message);
        }
    };
    // In the order of the file, which is the order in which somebody will repair it.
    let mut keys: Vec<_> = keys.get_ref().keys().collect();
    keys.sort_by_key(|key| key.span().start);
    for key in keys {
        let line = line_of(&text, key.span().start);
        let origin = Origin::File { path: path.to_owned(), line };
        let name = key.get_ref().as_ref();
        if !schema.has(name) {
            let suggestion = schema.similar_key(name);
            let suggestion = suggestion.map(|name| format!("; did you mean {name}?"));
            let message = format!("there is no such setting{}", suggestion.unwrap_or_default());
            mistakes.push(name, Some(origin), message);
            continue;
        }
        match table.get(name).and_then(values) {
            Some(values) => layers.add(name, origin, values),
            None => mistakes.push(
                name,
                Some(origin),
                "write a text, a number, true or false, or a list of them",
            ),
        }
    }
}

fn values(value: &Value) -> Option<Vec<OsString>> {
    match value {
        Value::Array(values) => values.iter().map(scalar).collect(),
        value => Some(vec![scalar(value)?]),
    }
}

fn scalar(value: &Value) -> Option<OsString> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Integer(number) => Some(number.to_string().into()),
        Value::Boolean(flag) => Some(flag.to_string().into()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
