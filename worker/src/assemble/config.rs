// SPDX-License-Identifier: Apache-2.0

//! The config of an image (OCI image specification, "Image Configuration"): the base's config, with
//! the recipe's and the request's settings on top.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use slipway_proto::{BuildRequest, Digest, Timestamp};

use super::base::BaseImage;
use super::layer::Layer;
use super::layout::Start;
use super::{ASSEMBLY_VERSION, AssembleError, inherited};

/// The limit of KubeSphere's B2I for all labels of an image, in bytes (s2irun
/// `postexecutorstep.go`). It is kept, because node agents fail with more.
const MAX_LABEL_BYTES: usize = 10_240;

/// Writes the config. `artifact` is the artifact's digest.
///
/// # Errors
///
/// When the labels are too large.
pub fn image_config(
    request: &BuildRequest,
    artifact: Digest,
    start: &Start,
    base: Option<&BaseImage>,
    layers: &[Arc<Layer>],
    epoch: i64,
) -> Result<Bytes, AssembleError> {
    let nothing = Value::Null;
    let base_config = base.map_or(&nothing, |base| &base.config);
    let mut config = inherited::config(base_config);
    command(request, start, &mut config);
    environment(request, &mut config);
    ports(request, &mut config);
    labels(request, artifact, base, &mut config)?;
    let recipe = &request.recipe;
    for (member, value) in [
        ("User", request.user.as_ref().or(recipe.user.as_ref())),
        ("WorkingDir", recipe.working_dir.as_ref()),
    ] {
        if let Some(value) = value {
            config.insert(member.to_owned(), value.as_str().into());
        }
    }
    let created = Timestamp::from_second(epoch).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let mut document = inherited::image(base_config);
    let mut diff_ids: Vec<Value> = base
        .iter()
        .flat_map(|base| &base.layers)
        .map(|layer| layer.diff_id.to_string().into())
        .collect();
    let mut history = inherited::history(base_config, diff_ids.len());
    for layer in layers {
        diff_ids.push(layer.diff_id.to_string().into());
        history.push(json!({
            "created": created,
            "created_by": format!("slipway {}: {}", recipe.environment, layer.title),
        }));
    }
    // A base has said its own variant.
    if let (None, Some(variant)) = (base, request.platform.variant) {
        document.insert("variant".to_owned(), variant.to_string().into());
    }
    document.insert("architecture".into(), request.platform.architecture.as_str().into());
    document.insert("os".into(), "linux".into());
    document.insert("created".into(), created.into());
    document.insert("config".into(), config.into());
    document.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
    document.insert("history".into(), history.into());
    // `serde_json::Map` sorts by name unless a feature is enabled, which would change every digest.
    // A test keeps it off.
    Ok(serde_json::to_vec(&document).expect("a config is always valid JSON").into())
}

/// Returns the variable whose words an element of a command stands for.
fn variable(part: &str) -> Option<&str> {
    part.strip_prefix("{$")?.strip_suffix('}')
}

fn command(request: &BuildRequest, start: &Start, config: &mut Map<String, Value>) {
    let expand = |template: &[String]| -> Vec<String> {
        let one = |part: &String| match (part.as_str(), variable(part)) {
            ("{launch}", _) => start.launch.clone(),
            (_, Some(name)) => {
                let value = request.env.get(name).map_or("", String::as_str);
                value.split_whitespace().map(str::to_owned).collect()
            }
            (other, None) => vec![other.replace("{artifact}", &start.artifact)],
        };
        template.iter().flat_map(one).collect()
    };
    let recipe = &request.recipe;
    if let Some(entrypoint) = &recipe.entrypoint {
        config.insert("Entrypoint".to_owned(), expand(entrypoint).into());
        // As in a Dockerfile: the base's command was meant for the base's entrypoint.
        config.remove("Cmd");
    }
    let mut arguments = match &recipe.command {
        Some(command) => expand(command),
        None => config
            .get("Cmd")
            .and_then(Value::as_array)
            .map(|parts| parts.iter().filter_map(|part| part.as_str().map(str::to_owned)).collect())
            .unwrap_or_default(),
    };
    arguments.extend(request.args.clone());
    for (member, empty) in [("Cmd", arguments.is_empty()), ("Entrypoint", false)] {
        let cleared = config.get(member).and_then(Value::as_array).is_some_and(Vec::is_empty);
        if empty || cleared {
            config.remove(member);
        }
    }
    if !arguments.is_empty() {
        config.insert("Cmd".to_owned(), arguments.into());
    }
}

/// Merges variables by name. The base's keep their place, and new ones follow, sorted by name.
fn environment(request: &BuildRequest, config: &mut Map<String, Value>) {
    let recipe = &request.recipe;
    let mut wanted = recipe.env.clone();
    for (name, alias) in &recipe.env_aliases {
        if let Some(value) = request.env.get(name) {
            wanted.insert(alias.clone(), value.clone());
        }
    }
    wanted.extend(request.env.clone());
    let inherited = config.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut variables = Vec::new();
    for variable in inherited.iter().filter_map(Value::as_str) {
        let name = variable.split_once('=').map_or(variable, |(name, _)| name);
        variables.push(match wanted.remove(name) {
            Some(value) => format!("{name}={value}"),
            None => variable.to_owned(),
        });
    }
    variables.extend(wanted.into_iter().map(|(name, value)| format!("{name}={value}")));
    if !variables.is_empty() {
        config.insert("Env".to_owned(), variables.into());
    }
}

fn ports(request: &BuildRequest, config: &mut Map<String, Value>) {
    let mut ports =
        config.get("ExposedPorts").and_then(Value::as_object).cloned().unwrap_or_default();
    for port in request.recipe.ports.iter().chain(&request.ports) {
        ports.insert(port.to_string(), json!({}));
    }
    if !ports.is_empty() {
        config.insert("ExposedPorts".to_owned(), ports.into());
    }
}

fn labels(
    request: &BuildRequest,
    artifact: Digest,
    base: Option<&BaseImage>,
    config: &mut Map<String, Value>,
) -> Result<(), AssembleError> {
    let mut labels = config.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
    // A base's description of itself is not true of the image built on it.
    for own in ["description", "version", "revision", "source", "url", "documentation"] {
        labels.remove(&format!("org.opencontainers.image.{own}"));
    }
    let mut set = |name: &str, value: String| labels.insert(name.to_owned(), value.into());
    set("org.opencontainers.image.title", request.artifact.filename.clone());
    if let Some(base) = base {
        set("org.opencontainers.image.base.name", base.reference.to_string());
        set("org.opencontainers.image.base.digest", base.digest.to_string());
    }
    set("dev.slipway.artifact", artifact.to_string());
    set("dev.slipway.environment", request.recipe.environment.clone());
    set("dev.slipway.assembly-version", ASSEMBLY_VERSION.to_string());
    for (name, value) in &request.recipe.labels {
        set(name, value.replace("{image}", &request.image().to_string()));
    }
    for (name, value) in &request.labels {
        set(name, value.clone());
    }
    let size: usize = labels.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if size > MAX_LABEL_BYTES {
        return Err(AssembleError::Recipe(format!(
            "the image's labels take {size} bytes, more than the {MAX_LABEL_BYTES} allowed: shorten them"
        )));
    }
    config.insert("Labels".to_owned(), labels.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_objects_are_written_in_the_order_of_their_names() {
        assert_eq!(json!({"b": 1, "a": 2}).to_string(), r#"{"a":2,"b":1}"#);
    }
}
