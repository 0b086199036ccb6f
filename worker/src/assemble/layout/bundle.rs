// SPDX-License-Identifier: Apache-2.0

//! How the files of a bundle are divided into layers: what changes rarely lies below.

use slipway_artifact::bundle::form::{self, Launch, is_own};
use slipway_artifact::bundle::{self, Files};
use slipway_proto::BuildRequest;
use slipway_proto::artifact::{BundleFacts, BundleForm, JavaFacts};
use slipway_proto::environment::starts_jar;

use super::{Data, Node, Plan, PlannedLayer, Start, launch};
use crate::assemble::AssembleError;

const FILE_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;

/// Where the words behind `java` lie in the bundle's directory, if they make a long line.
const ARGUMENTS: &str = ".slipway/java.args";

/// Plans a bundle in its directory.
pub(super) fn plan(
    request: &BuildRequest,
    files: Files<'_>,
    destination: &str,
) -> Result<Plan, AssembleError> {
    let facts = BundleFacts {
        directory: files.tree.directory().map(str::to_owned),
        form: form::recognise(files)?,
        java_release: None,
        java: JavaFacts::default(),
    };
    let facts = facts.narrowed(&request.artifact.filename, &[]);
    let home = format!("/{destination}");
    let launch = form::launch(&facts.form, files, &home)?;
    let recipe = &request.recipe;
    if launch.is_none() && starts_jar(recipe.entrypoint.as_deref(), recipe.command.as_deref()) {
        let why = facts.no_start().unwrap_or_else(|| {
            "the environment starts Java, and the bundle has nothing that Java starts: choose \
            another environment, or name the command in `entrypoint`"
                .to_owned()
        });
        return Err(AssembleError::Recipe(why));
    }
    let executable = facts.executable().map(|executable| executable.path.as_str());
    let titles = titles(&facts.form);
    let mut layers: Vec<PlannedLayer> =
        titles.iter().map(|title| PlannedLayer::new(title, None, recipe.owner)).collect();
    for (path, node) in files.tree.nodes() {
        let node = match node {
            bundle::Node::Directory => Node::DIRECTORY,
            bundle::Node::Link(target) => Node::Link { target: target.clone() },
            bundle::Node::File(file) => {
                let is_executable = file.is_executable || executable == Some(path.as_str());
                let mode = if is_executable { EXECUTABLE_MODE } else { FILE_MODE };
                let mut file = *file;
                if form::is_jar(path) {
                    // Nobody is told its time, and a copy of the same library has another one.
                    file.modified = None;
                }
                Node::file(mode, Data::Range(file))
            }
        };
        let layer = layer_of(&facts.form, launch.as_ref(), path, &node);
        layers[layer].add(format!("{destination}/{path}"), node);
    }
    let mut words = launch.map(|launch| launch.arguments).unwrap_or_default();
    if let Some(text) = launch::argument_file(&words, recipe.java) {
        let path = format!("{destination}/{ARGUMENTS}");
        words = vec![format!("@/{path}")];
        let last = layers.len() - 1;
        layers[last].add(path, Node::file(FILE_MODE, Data::Text(text)));
    }
    layers.retain(|layer| !layer.nodes.is_empty());
    let artifact = executable.map_or_else(|| home.clone(), |path| format!("{home}/{path}"));
    Ok(Plan { layers, start: Start { launch: words, artifact } })
}

/// Returns the titles of the layers, the lowest first.
fn titles(form: &BundleForm) -> &'static [&'static str] {
    match form {
        BundleForm::QuarkusFastJar => &["quarkus libraries", "quarkus", "quarkus application"],
        BundleForm::StartScripts { .. } | BundleForm::Jar { .. } => {
            &["bundle libraries", "bundle application"]
        }
        BundleForm::Executables { .. } | BundleForm::Unknown => &["bundle"],
    }
}

/// Returns which of the layers a path belongs to.
fn layer_of(form: &BundleForm, launch: Option<&Launch>, path: &str, node: &Node) -> usize {
    let last = titles(form).len() - 1;
    if matches!(node, Node::Directory { .. }) {
        // Those above a file come with it.
        return last;
    }
    match (form, launch) {
        (BundleForm::QuarkusFastJar, _) if path.starts_with("lib/") => 0,
        (BundleForm::QuarkusFastJar, _) if path.starts_with("quarkus/") => 1,
        (BundleForm::StartScripts { .. } | BundleForm::Jar { .. }, Some(launch))
            if launch.loads(path) && !is_own(form, launch, path) =>
        {
            0
        }
        _ => last,
    }
}
