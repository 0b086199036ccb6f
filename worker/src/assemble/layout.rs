// SPDX-License-Identifier: Apache-2.0

//! Decides which files go where, in which layer.

mod bundle;
mod java;
mod launch;

use std::collections::BTreeMap;
use std::sync::Arc;

use slipway_artifact::bundle::{Bundle, PlacedFile};
use slipway_artifact::zip::{Archive, Entry};
use slipway_artifact::{FileSource, Source as _};
use slipway_proto::BuildRequest;
use slipway_proto::request::Layering;

use super::AssembleError;

/// Everything that an image adds to its base.
#[derive(Debug)]
pub struct Plan {
    /// The layers, lowest first; none is empty.
    pub layers: Vec<PlannedLayer>,
    /// How the artifact is started.
    pub start: Start,
}

/// The parts of a command that depend on where the artifact was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The value of `{launch}`: the arguments that start a JAR.
    pub launch: Vec<String>,
    /// The value of `{artifact}`: the absolute path of the artifact's file or directory.
    pub artifact: String,
}

/// A planned layer.
#[derive(Debug)]
pub struct PlannedLayer {
    /// A title for the history and the log.
    pub title: String,
    /// Its entries by path, relative to the root. Parents come before their contents.
    pub nodes: BTreeMap<String, Node>,
    /// The archive that entries refer to.
    archive: Option<Arc<Archive>>,
    owner: (u32, u32),
}

/// An entry of a layer.
#[derive(Debug)]
pub enum Node {
    /// A directory.
    Directory {
        /// Its permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Its permission bits.
        mode: u32,
        /// Where its bytes come from.
        data: Data,
    },
    /// A symbolic link.
    Link {
        /// The relative path that it leads to.
        target: String,
    },
}

impl Node {
    /// A directory as most are.
    pub const DIRECTORY: Self = Self::Directory { mode: 0o755 };

    /// A directory that every user can write to. What is in it belongs to whom it belonged.
    pub const WRITABLE: Self = Self::Directory { mode: 0o1777 };

    /// Makes a file.
    #[must_use]
    pub fn file(mode: u32, data: Data) -> Self {
        Self::File { mode, data }
    }

    /// Returns its permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        match self {
            Self::Directory { mode } | Self::File { mode, .. } => *mode,
            // Linux pays no attention to it.
            Self::Link { .. } => 0o777,
        }
    }

    /// Returns its modification time, in seconds since the epoch, if it has one of its own.
    ///
    /// Servers tell browsers by the time of a static file whether it is the one that they have, so
    /// the files of an archive keep theirs.
    #[must_use]
    pub fn modified(&self) -> Option<i64> {
        match self {
            Self::File { data: Data::Entry(entry), .. } => entry.modified,
            Self::File { data: Data::Range(file), .. } => file.modified,
            _ => None,
        }
    }
}

/// Where a file's bytes come from.
#[derive(Debug)]
pub enum Data {
    /// The artifact itself.
    Whole,
    /// An entry of the artifact, which is an archive.
    Entry(Entry),
    /// A range of the artifact, or of what was unpacked from it.
    Range(PlacedFile),
    /// A text that was made here.
    Text(String),
}

impl Data {
    /// Returns the number of bytes.
    #[must_use]
    pub fn size(&self, artifact: &FileSource) -> u64 {
        match self {
            Self::Whole => artifact.len(),
            Self::Entry(entry) => entry.size,
            Self::Range(file) => file.size,
            Self::Text(text) => text.len() as u64,
        }
    }
}

impl PlannedLayer {
    pub(super) fn new(title: &str, archive: Option<&Arc<Archive>>, owner: (u32, u32)) -> Self {
        let archive = archive.map(Arc::clone);
        Self { title: title.to_owned(), nodes: BTreeMap::new(), archive, owner }
    }

    /// Adds an entry and the directories above it.
    pub(super) fn add(&mut self, path: String, node: Node) {
        for (slash, _) in path.match_indices('/') {
            self.nodes.entry(path[..slash].to_owned()).or_insert(Node::DIRECTORY);
        }
        self.nodes.insert(path, node);
    }

    /// Returns the archive that entries refer to.
    pub(super) fn archive(&self) -> &Archive {
        self.archive.as_ref().expect("a layer with entries of an archive knows the archive")
    }

    /// Returns the owner of a path. A directory at the top is the system's, not the artifact's.
    pub(super) fn owner(&self, path: &str) -> (u32, u32) {
        if path.contains('/') { self.owner } else { (0, 0) }
    }
}

/// Plans the layers of a request. `bundle` is the artifact's, where the recipe lays down one.
///
/// # Errors
///
/// When the artifact or the recipe is unsuitable.
pub fn plan(
    request: &BuildRequest,
    artifact: &Arc<FileSource>,
    bundle: Option<&Bundle>,
) -> Result<Plan, AssembleError> {
    let recipe = &request.recipe;
    let destination = destination(&recipe.destination, &request.artifact.filename)?;
    let mut plan = match (recipe.layering, bundle) {
        (Layering::Bundle, Some(bundle)) => {
            bundle::plan(request, bundle.files(&**artifact), &destination)?
        }
        (Layering::Jar, _) => java::plan_jar(request, artifact, &destination)?,
        (Layering::War, _) => java::plan_war(request, artifact, &destination)?,
        (Layering::AsIs | Layering::Bundle, _) => as_is(request, destination),
    };
    // In the lowest layer, which changes least.
    if let Some(layer) = plan.layers.first_mut() {
        for path in &recipe.writable {
            layer.add(path.trim_matches('/').to_owned(), Node::WRITABLE);
        }
    }
    Ok(plan)
}

/// One layer with the artifact's file.
pub(super) fn as_is(request: &BuildRequest, path: String) -> Plan {
    let recipe = &request.recipe;
    let artifact = format!("/{path}");
    let title = request.artifact.kind.as_str();
    let mut layer = PlannedLayer::new(title, None, recipe.owner);
    layer.add(path, Node::file(recipe.file_mode, Data::Whole));
    let launch = vec!["-jar".to_owned(), artifact.clone()];
    Plan { layers: vec![layer], start: Start { launch, artifact } }
}

/// Resolves a destination to a path relative to the root.
fn destination(template: &str, filename: &str) -> Result<String, AssembleError> {
    // Kinds are told without regard to case, and Tomcat makes the context `/Shop` of `Shop.WAR`.
    let name = match filename.rsplit_once('.') {
        Some((name, extension))
            if ["jar", "war"].iter().any(|known| extension.eq_ignore_ascii_case(known)) =>
        {
            name
        }
        _ => filename,
    };
    let path = template.trim_matches('/').replace("{file}", filename).replace("{name}", name);
    let bad = |part: &str| matches!(part, "" | "." | "..");
    if path.split('/').any(bad) {
        return Err(AssembleError::Recipe(format!(
            "the artifact's file name `{filename}` gives no path inside the image ({template}): upload it under another name"
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_war_is_named_by_its_file() {
        let war = "/usr/local/tomcat/webapps/{name}";
        assert_eq!(destination(war, "shop.war").expect("a path"), "usr/local/tomcat/webapps/shop");
        assert_eq!(destination("/app/{file}", "tool").expect("a path"), "app/tool");
        for (file, name) in [
            ("Shop.WAR", "Shop"),
            ("shop.War", "shop"),
            ("shop#admin.war", "shop#admin"),
            ("shop##001.WAR", "shop##001"),
            ("ROOT.war", "ROOT"),
            ("shop.war.zip", "shop.war.zip"),
            ("shop", "shop"),
        ] {
            let path = destination(war, file).expect("a path");
            assert_eq!(path, format!("usr/local/tomcat/webapps/{name}"));
        }
        // A start script that looks for *.war finds it under any name.
        assert_eq!(destination("/d/{name}.war", "Shop.WAR").expect("a path"), "d/Shop.war");
    }

    #[test]
    fn a_file_name_cannot_climb_out() {
        for filename in ["...war", "..war", ".war"] {
            assert!(destination("/webapps/{name}", filename).is_err(), "{filename}");
        }
    }

    #[test]
    fn the_directories_above_an_entry_come_first() {
        let mut layer = PlannedLayer::new("x", None, (7, 7));
        layer.add("a/b/c".into(), Node::file(0o644, Data::Whole));
        layer.add("a-z".into(), Node::DIRECTORY);
        let paths: Vec<&str> = layer.nodes.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a-z", "a/b", "a/b/c"]);
        assert_eq!((layer.owner("a"), layer.owner("a/b")), ((0, 0), (7, 7)));
    }
}
