// SPDX-License-Identifier: Apache-2.0

//! How JARs and WARs are divided into layers, so that a rebuild sends only what changed.

use std::sync::Arc;

use slipway_artifact::FileSource;
use slipway_artifact::inspect::is_war;
use slipway_artifact::manifest::Manifest;
use slipway_artifact::spring_boot::{self, Layers};
use slipway_artifact::zip::{Archive, Entry};
use slipway_proto::BuildRequest;
use slipway_proto::environment::{NO_MAIN_CLASS, starts_jar};

use super::{Data, Node, Plan, PlannedLayer, Start, as_is, launch};
use crate::assemble::AssembleError;

/// The largest index of layers that is read, in bytes.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// The mode of files from an archive. The modes in the archive are ignored.
const ENTRY_MODE: u32 = 0o644;

/// Where the options of a long command are, below the exploded JAR.
const ARGUMENTS: &str = "META-INF/slipway/java.args";

/// Plans a Spring Boot JAR as its exploded layers, any other JAR and a WAR as one file.
pub(super) fn plan_jar(
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    destination: &str,
) -> Result<Plan, AssembleError> {
    let archive = Arc::new(Archive::read(&**artifact)?);
    let manifest = Manifest::read(&archive, &**artifact)?;
    let main_class = manifest.get("Main-Class").filter(|class| !class.is_empty());
    let recipe = &request.recipe;
    let launches = starts_jar(recipe.entrypoint.as_deref(), recipe.command.as_deref());
    if main_class.is_none() && launches {
        return Err(AssembleError::Artifact(NO_MAIN_CLASS.to_owned()));
    }
    let java = recipe.java;
    let names = archive.entries().iter().map(|entry| entry.name.as_str());
    let is_whole = !spring_boot::is_spring_boot(&manifest)
        // A WAR that starts by itself is laid down as `java -jar` takes it.
        || is_war(&archive)
        || launch::needs_the_jar(&manifest, names, java).is_some();
    if is_whole {
        return Ok(as_is(request, format!("{destination}/{}", request.artifact.filename)));
    }
    let index = Index::of(&archive, artifact, &manifest)?;
    let owner = request.recipe.owner;
    let mut layers: Vec<PlannedLayer> = index
        .names()
        .iter()
        .map(|name| PlannedLayer::new(&format!("spring boot {name}"), Some(&archive), owner))
        .collect();
    let last = layers.len() - 1;
    for entry in archive.unpacked()? {
        // A file that the index does not name goes to the application, which changes most often.
        let layer = index.layer_of(&entry.name).unwrap_or(last);
        add(&mut layers[layer], destination, entry);
    }
    // Spring Boot 3.2 moved the launcher class. The archive names the one it contains.
    let mut words = launch::words(&manifest, main_class, &format!("/{destination}"), java);
    if let Some(text) = launch::argument_file(&words, java) {
        let path = format!("{destination}/{ARGUMENTS}");
        words = vec![format!("@/{path}")];
        layers[last].add(path, Node::file(ENTRY_MODE, Data::Text(text)));
    }
    Ok(plan(layers, words, destination))
}

/// Which layer an entry of a Spring Boot archive belongs to.
enum Index {
    /// The layers of the archive's own `layers.idx`.
    Own(Layers),
    /// The default layers of Spring Boot's build plugins.
    Default,
}

impl Index {
    fn of(
        archive: &Archive,
        artifact: &Arc<FileSource>,
        manifest: &Manifest,
    ) -> Result<Self, AssembleError> {
        let named = manifest.get("Spring-Boot-Layers-Index").unwrap_or("BOOT-INF/layers.idx");
        let Some(entry) = archive.find(named) else { return Ok(Self::Default) };
        let text = archive.read_to_vec(&**artifact, entry, MAX_TEXT)?;
        let layers = Layers::parse(&String::from_utf8_lossy(&text));
        layers.map(Self::Own).map_err(|error| AssembleError::Artifact(format!("{named}: {error}")))
    }

    fn names(&self) -> Vec<&str> {
        match self {
            Self::Own(layers) => layers.names().collect(),
            Self::Default => {
                vec!["dependencies", "spring-boot-loader", "snapshot-dependencies", "application"]
            }
        }
    }

    fn layer_of(&self, path: &str) -> Option<usize> {
        let layers = match self {
            Self::Own(layers) => return layers.layer_of(path),
            Self::Default => ["BOOT-INF/lib/", "org/springframework/boot/loader/"],
        };
        match layers.iter().position(|prefix| path.starts_with(prefix) && path != *prefix)? {
            0 if path.contains("SNAPSHOT") => Some(2),
            layer => Some(layer),
        }
    }
}

/// Plans a WAR exploded in its directory, with its libraries in a layer of their own.
pub(super) fn plan_war(
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    destination: &str,
) -> Result<Plan, AssembleError> {
    let archive = Arc::new(Archive::read(&**artifact)?);
    let owner = request.recipe.owner;
    let mut libraries = PlannedLayer::new("war libraries", Some(&archive), owner);
    let mut application = PlannedLayer::new("war application", Some(&archive), owner);
    for entry in archive.unpacked()? {
        let is_library = entry.name.starts_with("WEB-INF/lib/") && !entry.is_directory();
        let layer = if is_library { &mut libraries } else { &mut application };
        add(layer, destination, entry);
    }
    Ok(plan(vec![libraries, application], Vec::new(), destination))
}

fn add(layer: &mut PlannedLayer, destination: &str, entry: &Entry) {
    let path = format!("{destination}/{}", entry.name.trim_end_matches('/'));
    let node = if entry.is_directory() {
        Node::DIRECTORY
    } else {
        Node::file(ENTRY_MODE, Data::Entry(entry.clone()))
    };
    layer.add(path, node);
}

fn plan(mut layers: Vec<PlannedLayer>, launch: Vec<String>, destination: &str) -> Plan {
    layers.retain(|layer| !layer.nodes.is_empty());
    Plan { layers, start: Start { launch, artifact: format!("/{destination}") } }
}
