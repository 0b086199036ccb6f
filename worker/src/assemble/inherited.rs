// SPDX-License-Identifier: Apache-2.0

//! What an image takes over from the config of its base.
//!
//! A base says what it likes of itself, and whoever reads the image afterwards believes it. So
//! members of the wrong shape are left behind, and there is one entry of the history for each layer:
//! Docker refuses more, podman counts them off from the front and would tell of the wrong layers,
//! and umoci and skopeo fail on fewer.

use serde_json::{Map, Value, json};

/// Returns a value in the shape that a member must have, if it has it.
type Shape = fn(&Value) -> Option<Value>;

/// The members of a base's `config` that the image inherits, with their shapes (OCI image
/// specification, "Image Configuration"). Others, such as the host name of the machine that built
/// the base, mean nothing in a new image.
const FROM_CONFIG: [(&str, Shape); 11] = [
    ("User", text),
    ("ExposedPorts", object),
    ("Env", texts),
    ("Entrypoint", words),
    ("Cmd", words),
    ("Volumes", object),
    ("WorkingDir", text),
    ("Labels", labels),
    ("StopSignal", text),
    ("Healthcheck", object),
    ("Shell", texts),
];

/// The members beside `config` that the image inherits from its base.
const FROM_IMAGE: [(&str, Shape); 4] =
    [("variant", text), ("os.version", text), ("os.features", texts), ("author", text)];

/// The members of an entry of the history.
const FROM_HISTORY: [(&str, Shape); 5] = [
    ("created", text),
    ("created_by", text),
    ("author", text),
    ("comment", text),
    ("empty_layer", boolean),
];

/// What an entry says that stands for a layer of which the base says nothing.
const UNTOLD: &str = "a layer of the base image, which has no history of it";

/// Returns the members of the base's `config`.
pub(super) fn config(base: &Value) -> Map<String, Value> {
    members(&base["config"], &FROM_CONFIG)
}

/// Returns the members beside it.
pub(super) fn image(base: &Value) -> Map<String, Value> {
    members(base, &FROM_IMAGE)
}

/// Returns the history of a base that has so many layers: one entry for each of them, and those
/// that stand for none. Entries for layers that are not there are cut off.
pub(super) fn history(base: &Value, layers: usize) -> Vec<Value> {
    let told = base["history"].as_array().map_or(&[][..], Vec::as_slice);
    let mut missing = layers;
    let mut history = Vec::new();
    for entry in told.iter().filter(|entry| entry.is_object()) {
        let entry = members(entry, &FROM_HISTORY);
        let is_empty = entry.get("empty_layer").is_some_and(|empty| empty == &Value::Bool(true));
        if !is_empty {
            match missing.checked_sub(1) {
                Some(rest) => missing = rest,
                None => continue,
            }
        }
        history.push(entry.into());
    }
    history.extend(std::iter::repeat_n(json!({ "comment": UNTOLD }), missing));
    history
}

fn members(source: &Value, wanted: &[(&str, Shape)]) -> Map<String, Value> {
    let member =
        |(name, shape): &(&str, Shape)| Some(((*name).to_owned(), shape(source.get(*name)?)?));
    wanted.iter().filter_map(member).collect()
}

fn text(value: &Value) -> Option<Value> {
    value.is_string().then(|| value.clone())
}

fn boolean(value: &Value) -> Option<Value> {
    value.is_boolean().then(|| value.clone())
}

fn object(value: &Value) -> Option<Value> {
    value.is_object().then(|| value.clone())
}

fn texts(value: &Value) -> Option<Value> {
    value.as_array()?.iter().all(Value::is_string).then(|| value.clone())
}

/// Docker takes one word for a list of it.
fn words(value: &Value) -> Option<Value> {
    if value.is_string() { Some(json!([value])) } else { texts(value) }
}

fn labels(value: &Value) -> Option<Value> {
    let mut labels = value.as_object()?.clone();
    labels.retain(|_, value| value.is_string());
    Some(labels.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers_of(history: &[Value]) -> usize {
        history.iter().filter(|entry| entry["empty_layer"] != true).count()
    }

    #[test]
    fn a_history_has_one_entry_for_each_layer() {
        let entry = |n: usize| json!({"created_by": format!("step {n}")});
        let empty = json!({"created_by": "ENV", "empty_layer": true});
        for told in [
            json!({}),
            json!({"history": null}),
            json!({"history": "none"}),
            json!({"history": []}),
            json!({"history": [entry(1)]}),
            json!({"history": [entry(1), entry(2), entry(3)]}),
            json!({"history": [empty, entry(1), empty, entry(2), empty, entry(3), empty]}),
            json!({"history": [1, entry(1), null, {"empty_layer": "true"}]}),
        ] {
            let history = history(&told, 2);
            assert_eq!(layers_of(&history), 2, "{told}");
            let told = told["history"].as_array().cloned().unwrap_or_default();
            let empties = |history: &[Value]| history.iter().filter(|e| **e == empty).count();
            assert_eq!(empties(&history), empties(&told), "{told:?}");
        }
        let short = history(&json!({"history": [entry(1)]}), 2);
        assert_eq!(short, [entry(1), json!({"comment": UNTOLD})]);
        assert_eq!(history(&json!({}), 0), Vec::<Value>::new());
    }

    #[test]
    fn a_history_that_fits_is_taken_over_as_it_is() {
        let told = json!({"history": [
            {"created": "2026-01-01T00:00:00Z", "created_by": "ADD", "comment": "c", "author": "a"},
            {"created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN", "empty_layer": false},
        ]});
        assert_eq!(Value::from(history(&told, 2)), told["history"]);
    }

    #[test]
    fn members_of_another_shape_are_left_behind() {
        let base = json!({
            "author": 1, "os.features": ["a"], "variant": "v7",
            "config": {
                "Env": ["A=b"], "Cmd": "bash", "Entrypoint": null, "Labels": {"a": "b", "c": null},
                "ExposedPorts": ["80"], "Volumes": {"/data": {}}, "User": 7, "Hostname": "x",
                "Shell": [1],
            },
        });
        let expected = json!({
            "Env": ["A=b"], "Cmd": ["bash"], "Labels": {"a": "b"}, "Volumes": {"/data": {}},
        });
        assert_eq!(Value::from(config(&base)), expected);
        assert_eq!(Value::from(image(&base)), json!({"os.features": ["a"], "variant": "v7"}));
        assert!(config(&Value::Null).is_empty() && image(&Value::Null).is_empty());
    }
}
