// SPDX-License-Identifier: Apache-2.0

//! Environments: named recipes, and which artifacts can run in each.

mod bundle;
mod catalogue;
mod executable;
mod java;
mod servlet;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::{ServletApi, WarFacts};
use crate::request::{Base, Layering, Note, Port, Recipe};
use crate::{ArtifactFacts, ArtifactKind};
pub(crate) use catalogue::edit_distance;
pub use catalogue::{AUTO, Catalogue, CatalogueError, Choice, ChooseError};

/// A named recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The name a request gives.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Tags that may follow a name. The base then gets that tag.
    #[serde(default)]
    pub tags: Vec<String>,
    /// One line for people.
    pub description: String,
    /// The kinds of artifact it takes.
    pub kinds: Vec<ArtifactKind>,
    /// Whether `auto` may choose it.
    #[serde(default)]
    pub auto: bool,
    /// What images start from.
    pub base: Base,
    /// The newest Java release its runtime runs.
    #[serde(default)]
    pub java: Option<u16>,
    /// The servlet API of its server.
    #[serde(default)]
    pub servlet: Option<ServletApi>,
    /// The program interpreters of its base; `None` when not known.
    #[serde(default)]
    pub interpreters: Option<Vec<String>>,
    /// The version of glibc of its base, as in `2.36`; `None` when not known, or when it has none.
    #[serde(default)]
    pub glibc: Option<String>,
    /// The shared libraries of its base, by the names that executables have for them; `None` when
    /// not known.
    #[serde(default)]
    pub libraries: Option<Vec<String>>,
    /// The newest version that the libraries of its base have in each series, as in `GLIBCXX` and
    /// `3.4.30`. A series that is not here is not checked.
    #[serde(default)]
    pub library_versions: BTreeMap<String, String>,
    /// How the artifact is laid into layers.
    pub layering: Layering,
    /// Where the artifact goes.
    pub destination: String,
    /// The entrypoint; `None` keeps the base's.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The command; `None` keeps the base's.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The user; `None` keeps the base's.
    #[serde(default)]
    pub user: Option<String>,
    /// The working directory; `None` keeps the base's.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// What differs on another base than its own, of which nobody knows whether it has a shell, or
    /// how it is started.
    #[serde(default)]
    pub other_base: Option<OtherBase>,
    /// Directories that every user of the image can write to.
    #[serde(default)]
    pub writable: Vec<String>,
    /// Ports it declares.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Variables it sets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables of the request that are also set under a second name.
    #[serde(default)]
    pub env_aliases: BTreeMap<String, String>,
    /// Variables that the base's software reads.
    #[serde(default)]
    pub understands: Vec<String>,
    /// Labels it sets.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Mode of the artifact's file.
    #[serde(default = "default_file_mode")]
    pub file_mode: u32,
    /// Owner of the artifact's file, as numeric user and group.
    #[serde(default)]
    pub owner: (u32, u32),
}

/// What an environment does differently on a base that a request names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherBase {
    /// The entrypoint; `None` keeps the base's.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The command; `None` keeps the base's.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Variables of the request that are also set under a second name.
    #[serde(default)]
    pub env_aliases: BTreeMap<String, String>,
}

fn default_file_mode() -> u32 {
    0o644
}

impl Environment {
    /// Returns what is to be said about an artifact that is built for this environment. `is_chosen`
    /// says that nobody named it.
    pub(super) fn notes(
        &self,
        facts: &ArtifactFacts,
        base_replaced: bool,
        is_chosen: bool,
    ) -> Vec<Note> {
        let java = self.java.filter(|_| !base_replaced);
        let servlet = self.servlet.filter(|_| !base_replaced);
        let needs = java::Needs::of(facts);
        let mut notes = needs.map(|needs| needs.notes(java, is_chosen)).unwrap_or_default();
        let warnings: &[String] = match facts {
            ArtifactFacts::Jar(jar) => &jar.warnings,
            ArtifactFacts::War(war) => {
                notes.extend(servlet::notes(war, servlet, is_chosen && !base_replaced));
                &war.warnings
            }
            ArtifactFacts::Binary(_) | ArtifactFacts::Bundle(_) => {
                let elf = facts.executable().into_iter();
                notes.extend(elf.flat_map(|elf| executable::notes(elf, base_replaced)));
                &[]
            }
        };
        notes.extend(warnings.iter().map(Note::warning));
        notes
    }

    /// Makes it the environment that it is on another base than its own.
    pub(crate) fn move_to_other_base(&mut self) {
        if let Some(OtherBase { entrypoint, command, env_aliases }) = self.other_base.take() {
            (self.entrypoint, self.command) = (entrypoint, command);
            self.env_aliases = env_aliases;
        }
    }

    /// Returns the recipe, with `base` in place of the environment's if one is given.
    #[must_use]
    pub fn recipe(&self, base: Option<Base>) -> Recipe {
        Recipe {
            environment: self.name.clone(),
            java: self.java.filter(|_| base.is_none()),
            base: base.unwrap_or_else(|| self.base.clone()),
            layering: self.layering,
            destination: self.destination.clone(),
            entrypoint: self.entrypoint.clone(),
            command: self.command.clone(),
            user: self.user.clone(),
            working_dir: self.working_dir.clone(),
            writable: self.writable.clone(),
            ports: self.ports.clone(),
            env: self.env.clone(),
            env_aliases: self.env_aliases.clone(),
            labels: self.labels.clone(),
            file_mode: self.file_mode,
            owner: self.owner,
        }
    }

    /// Checks that an artifact can run in this environment.
    ///
    /// `base_replaced` says that the request has a base of its own, which the catalogue does not
    /// know.
    ///
    /// # Errors
    ///
    /// Says what the artifact needs and the environment lacks.
    pub fn check(&self, facts: &ArtifactFacts, base_replaced: bool) -> Result<(), Unsuitable> {
        let kind = facts.kind();
        let unsuitable = |why: String| Err(Unsuitable { environment: self.name.clone(), why });
        if !self.kinds.contains(&kind) {
            let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.as_str()).collect();
            return unsuitable(format!(
                "it takes {}, and the artifact is a {kind}",
                kinds.join(" or ")
            ));
        }
        if let ArtifactFacts::Jar(jar) = facts
            && self.layering == Layering::Jar
            && jar.main_class.is_none()
            && starts_jar(self.entrypoint.as_deref(), self.command.as_deref())
        {
            return unsuitable(NO_MAIN_CLASS.to_owned());
        }
        if let ArtifactFacts::War(WarFacts { not_unpackable: Some(why), .. }) = facts {
            return unsuitable(format!("its server unpacks the WAR, and {why}"));
        }
        if let ArtifactFacts::Bundle(bundle) = facts
            && let Some(why) = bundle::refusal(self, bundle)
        {
            return unsuitable(why);
        }
        let needs = java::Needs::of(facts);
        if let Some(why) = needs.as_ref().and_then(java::Needs::contradiction) {
            return unsuitable(why);
        }
        if base_replaced {
            return Ok(());
        }
        if let (Some(needs), Some(runs)) = (needs, self.java)
            && let Some(why) = needs.refusal(runs)
        {
            return unsuitable(why);
        }
        if let (ArtifactFacts::War(war), Some(serves)) = (facts, self.servlet)
            && let Some(why) = servlet::refusal(war, serves)
        {
            return unsuitable(why);
        }
        if let Some(elf) = facts.executable()
            && let Some(why) = executable::refusal(self, elf)
        {
            return unsuitable(why);
        }
        Ok(())
    }
}

/// What to do about a JAR that nothing starts, for people.
pub const NO_MAIN_CLASS: &str = "the JAR's manifest names no Main-Class, so nothing says how to \
    start it: let the build write one (Maven: `mainClass` of maven-jar-plugin or \
    maven-shade-plugin; Gradle: the manifest attribute `Main-Class` of the task jar; Spring Boot: \
    the goal `repackage` or the task `bootJar`, whose JAR has neither `-plain` nor `.original` in \
    its name) and upload that JAR, or say how it is started, as in \
    --entrypoint 'java -cp {artifact} com.example.Main'";

/// Returns whether an image is started by what starts a JAR, so that the JAR must say what that is.
#[must_use]
pub fn starts_jar(entrypoint: Option<&[String]>, command: Option<&[String]>) -> bool {
    [entrypoint, command].into_iter().flatten().flatten().any(|part| part == LAUNCH)
}

/// The element of a command that stands for what starts a JAR.
const LAUNCH: &str = "{launch}";

/// An environment cannot run an artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment `{environment}` does not suit the artifact: {why}")]
pub struct Unsuitable {
    environment: String,
    why: String,
}

#[cfg(test)]
mod tests;
