// SPDX-License-Identifier: Apache-2.0

//! The catalogue of environments, built in and extended by a file.
//!
//! Parsing and choosing are pure: the caller reads the file and passes its text.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Environment, Unsuitable, executable, java, servlet};
use crate::request::{Base, Layering, Note};
use crate::{ArtifactFacts, ArtifactKind};

const BUILT_IN: &str = include_str!("../../environments.toml");

/// The name by which a request asks the catalogue to choose.
pub const AUTO: &str = "auto";

/// May stand before every name.
const DOCKER_HUB: &str = "docker.io/";

/// The environment chosen for an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The environment.
    pub environment: Environment,
    /// What decided, what was assumed, and what may go wrong.
    pub notes: Vec<Note>,
    /// What the artifact is built as: a WAR that starts by itself may be built as a JAR.
    pub kind: ArtifactKind,
}

/// Why no environment was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// No environment has that name.
    #[error("there is no environment `{name}`{hint}; `slipway environments` lists them")]
    NotFound {
        /// The name asked for.
        name: String,
        /// A similar name, as a clause.
        hint: String,
    },
    /// `auto` found none that can run the artifact.
    #[error("no environment suits the artifact: {0}")]
    NoneSuits(String),
    /// The named one cannot run the artifact.
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
}

/// A catalogue file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The text is not TOML of the documented form.
    #[error("the environment catalogue does not parse")]
    Syntax(#[source] toml::de::Error),
    /// An entry is wrong.
    #[error("environment `{name}`: {why}")]
    Entry {
        /// The entry's name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// All environments that a dispatcher knows.
#[derive(Debug, Clone)]
pub struct Catalogue {
    environments: Vec<Environment>,
    /// The start scripts that a file may name, too.
    scripts: Scripts,
}

/// Start scripts by name.
type Scripts = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Start scripts, which an element `{script:NAME}` of an entrypoint or command stands for.
    #[serde(default)]
    script: Scripts,
    #[serde(default)]
    environment: Vec<Environment>,
}

impl Default for Catalogue {
    /// Returns the built-in catalogue.
    fn default() -> Self {
        let mut scripts = Scripts::new();
        let environments = parse(BUILT_IN, &mut scripts);
        Self { environments: environments.expect("the built-in catalogue is tested"), scripts }
    }
}

/// Reads a file, whose scripts are added to those there are.
fn parse(text: &str, scripts: &mut Scripts) -> Result<Vec<Environment>, CatalogueError> {
    let mut file: File = toml::from_str(text).map_err(CatalogueError::Syntax)?;
    scripts.append(&mut file.script);
    for environment in &mut file.environment {
        let name = environment.name.clone();
        let refuse =
            |why: &str| Err(CatalogueError::Entry { name: name.clone(), why: why.to_owned() });
        if let Err(name) = write_out(environment, scripts) {
            return refuse(&format!("there is no script `{name}`"));
        }
        let versions = environment.glibc.iter().chain(environment.library_versions.values());
        if versions.into_iter().any(|version| executable::numbers(version).is_none()) {
            return refuse("a version is numbers with points between them, as in 2.36");
        }
        if !environment.writable.iter().all(|path| is_directory(path)) {
            return refuse("a writable directory is an absolute path without `.` and `..`");
        }
        for name in std::iter::once(&environment.name).chain(&environment.aliases) {
            if name == AUTO || name.is_empty() {
                return refuse("choose another name; `auto` is taken");
            }
            if name.contains(':') || name.starts_with(DOCKER_HUB) {
                return refuse("a name holds no `:` and does not start with `docker.io/`");
            }
        }
        if let Base::Image(base) = &environment.base
            && environment.tags.iter().any(|tag| base.with_tag(tag).is_err())
        {
            return refuse("each of the tags must be a tag of an image");
        }
        if environment.kinds.is_empty() {
            return refuse("name at least one kind");
        }
        if !environment.destination.starts_with('/') {
            return refuse("the destination must be an absolute path");
        }
        let exploded = matches!(environment.layering, Layering::War);
        if exploded && environment.kinds != [ArtifactKind::War] {
            return refuse("the layering `war` takes WARs only");
        }
    }
    Ok(file.environment)
}

/// Puts the scripts into the commands of an environment. Fails with the name of one that is not
/// there.
fn write_out(environment: &mut Environment, scripts: &Scripts) -> Result<(), String> {
    let other = environment.other_base.iter_mut();
    let other = other.flat_map(|other| [&mut other.entrypoint, &mut other.command]);
    let own = [&mut environment.entrypoint, &mut environment.command];
    for command in own.into_iter().chain(other) {
        for element in command.iter_mut().flatten() {
            let name = element.strip_prefix("{script:").and_then(|rest| rest.strip_suffix('}'));
            if let Some(name) = name {
                // A script that names a script would be taken for one when it is read again.
                let script = scripts.get(name).filter(|script| !script.contains("{script:"));
                let script = script.ok_or_else(|| name.to_owned())?;
                *element = script.trim().to_owned();
            }
        }
    }
    Ok(())
}

fn is_directory(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_plain))
}

impl Catalogue {
    /// Returns this catalogue with the environments of a file added. An entry replaces one of the
    /// same name.
    ///
    /// # Errors
    ///
    /// When the text is not a catalogue.
    pub fn extended(mut self, text: &str) -> Result<Self, CatalogueError> {
        for environment in parse(text, &mut self.scripts)? {
            self.environments.retain(|known| known.name != environment.name);
            self.environments.push(environment);
        }
        Ok(self)
    }

    /// Returns this catalogue with another entrypoint in every environment, and without commands.
    #[must_use]
    pub fn with_entrypoint(&self, entrypoint: &[String]) -> Self {
        let mut catalogue = self.clone();
        for environment in &mut catalogue.environments {
            environment.entrypoint = Some(entrypoint.to_vec());
            environment.command = Some(Vec::new());
            environment.other_base = None;
        }
        catalogue
    }

    /// Returns the environments, built-in ones first.
    #[must_use]
    pub fn environments(&self) -> &[Environment] {
        &self.environments
    }

    /// Finds an environment by a name, an alias, or either with one of its tags. A name counts
    /// before another environment's alias.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn find(&self, name: &str) -> Result<Environment, ChooseError> {
        let plain = name.strip_prefix(DOCKER_HUB).unwrap_or(name);
        let (plain, tag) = plain.split_once(':').map_or((plain, None), |(n, t)| (n, Some(t)));
        let tagged = || {
            self.environments.iter().filter(|environment| {
                tag.is_none_or(|tag| environment.tags.iter().any(|known| known == tag))
            })
        };
        let named = tagged().find(|environment| environment.name == plain);
        let has_alias =
            |environment: &&Environment| environment.aliases.iter().any(|alias| alias == plain);
        let Some(environment) = named.or_else(|| tagged().find(has_alias)) else {
            return Err(ChooseError::NotFound { name: name.to_owned(), hint: self.similar(plain) });
        };
        let mut environment = environment.clone();
        if let (Some(tag), Base::Image(base)) = (tag, &environment.base) {
            environment.base =
                Base::Image(base.with_tag(tag).expect("tags are checked when they are read"));
        }
        Ok(environment)
    }

    /// Chooses the environment for an artifact: the named one, or for `auto` the oldest runtime
    /// that runs it.
    ///
    /// An environment that takes no WAR gets one that starts by itself as a JAR.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or none that suits.
    pub fn choose(
        &self,
        name: &str,
        facts: &ArtifactFacts,
        base_replaced: bool,
    ) -> Result<Choice, ChooseError> {
        if name == AUTO {
            let environment = self.best(facts, base_replaced)?.clone();
            return Ok(choice(environment, facts, base_replaced, true));
        }
        let environment = self.find(name)?;
        let as_jar = match facts {
            ArtifactFacts::War(war) if !environment.kinds.contains(&ArtifactKind::War) => {
                war.as_jar().map(ArtifactFacts::Jar)
            }
            _ => None,
        };
        let facts = as_jar.as_ref().unwrap_or(facts);
        environment.check(facts, base_replaced)?;
        Ok(choice(environment, facts, base_replaced, false))
    }

    /// Returns the environment with the oldest runtime that runs all of an artifact, or else the
    /// newest that runs what is certainly needed.
    fn best(
        &self,
        facts: &ArtifactFacts,
        base_replaced: bool,
    ) -> Result<&Environment, ChooseError> {
        let servlet = match facts {
            ArtifactFacts::War(war) => Some(servlet::wanted(war)),
            _ => None,
        };
        let needs = java::Needs::of(facts);
        let release = needs.as_ref().and_then(|needs| needs.release);
        let release = release.unwrap_or(java::DEFAULT_RELEASE);
        let candidates = self
            .environments
            .iter()
            .filter(|environment| environment.auto && environment.kinds.contains(&facts.kind()))
            .filter(|environment| servlet.is_none() || environment.servlet == servlet)
            .filter(|environment| environment.is_for(facts));
        let (mut suitable, mut newest, mut refusal) = (Vec::new(), None, None);
        for environment in candidates {
            match environment.check(facts, base_replaced) {
                Ok(()) => suitable.push(environment),
                Err(unsuitable) => {
                    newest = newest.max(environment.java);
                    refusal = Some(unsuitable.why);
                }
            }
        }
        suitable.sort_by_key(|environment| environment.java);
        let runs_all =
            |environment: &&&Environment| environment.java.is_none_or(|java| java >= release);
        if let Some(best) = suitable.iter().find(runs_all).or(suitable.last()) {
            return Ok(best);
        }
        Err(ChooseError::NoneSuits(match (needs, newest, refusal) {
            (Some(needs), Some(newest), Some(_)) if needs.refusal(newest).is_some() => {
                needs.refused_by_all(newest)
            }
            (_, _, Some(refusal)) => refusal,
            (_, _, None) => format!("the catalogue has none for a {}", facts.kind()),
        }))
    }

    fn similar(&self, name: &str) -> String {
        self.environments
            .iter()
            .flat_map(|environment| std::iter::once(&environment.name).chain(&environment.aliases))
            .map(|known| (edit_distance(name, known), known))
            .filter(|(distance, _)| *distance <= 3)
            .min()
            .map_or_else(String::new, |(_, known)| format!(", did you mean `{known}`?"))
    }
}

/// Completes the choice of an environment for an artifact.
fn choice(
    mut environment: Environment,
    facts: &ArtifactFacts,
    base_replaced: bool,
    is_chosen: bool,
) -> Choice {
    if base_replaced {
        environment.move_to_other_base();
    }
    let notes = environment.notes(facts, base_replaced, is_chosen);
    if let Some(needs) = java::Needs::of(facts) {
        needs.prepare(&mut environment);
    }
    Choice { environment, notes, kind: facts.kind() }
}

/// Counts the single-character edits between two short texts (Levenshtein).
pub(crate) fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{ElfFacts, JarFacts, ServletApi, WarFacts};
    use crate::platform::Architecture;

    fn jar(java_release: u16) -> ArtifactFacts {
        ArtifactFacts::Jar(JarFacts {
            java_release: Some(java_release),
            main_class: Some("Main".into()),
            ..JarFacts::default()
        })
    }

    fn elf(interpreter: Option<&str>) -> ArtifactFacts {
        ArtifactFacts::Binary(ElfFacts::new(Architecture::Amd64, interpreter))
    }

    fn war(java_release: u16, servlet_api: Option<ServletApi>) -> ArtifactFacts {
        let java_release = Some(java_release);
        ArtifactFacts::War(WarFacts { java_release, servlet_api, ..WarFacts::default() })
    }

    #[test]
    fn auto_takes_the_oldest_runtime_that_runs_the_artifact() {
        let catalogue = Catalogue::default();
        let auto = |facts: &ArtifactFacts| {
            catalogue.choose(AUTO, facts, false).map(|c| c.environment.name)
        };
        for (facts, name) in [
            (jar(8), "java-8"),
            (jar(9), "java-11"),
            (jar(21), "java-21"),
            (war(11, Some(ServletApi::Javax)), "tomcat-9-java-11"),
            (war(17, Some(ServletApi::Jakarta)), "tomcat-10-java-17"),
            (war(8, None), "tomcat-10-java-17"),
            (war(17, Some(ServletApi::Jakarta61)), "tomcat-11-java-17"),
            (elf(None), "static"),
            (elf(Some("/lib64/ld-linux-x86-64.so.2")), "cc"),
        ] {
            assert_eq!(auto(&facts).as_deref(), Ok(name), "{facts:?}");
        }
        assert!(matches!(auto(&jar(26)), Err(ChooseError::NoneSuits(_))));
        assert!(matches!(
            auto(&elf(Some("/lib/ld-musl-x86_64.so.1"))),
            Err(ChooseError::NoneSuits(_))
        ));
    }

    #[test]
    fn the_old_names_are_found_with_and_without_prefix_and_tag() {
        let catalogue = Catalogue::default();
        for name in [
            "kubesphere/tomcat85-java8-centos7:v2.1.0",
            "tomcat85-java8-centos7",
            "tomcat85-java11-centos7",
            "kubesphere/java-8-centos7",
            "java-11-centos7:v2.1.0",
            "s2i-binary:v2.1.0",
            "docker.io/kubesphere/s2i-binary",
        ] {
            assert!(catalogue.find(name).is_ok(), "{name}");
        }
        let newer = catalogue.find("java-8-centos7:v3.2.0").expect("it is known");
        assert_eq!(newer.base.to_string(), "docker.io/kubesphere/java-8-runtime:v3.2.0");
        assert!(catalogue.find("java-8-centos7:v9").is_err());
    }

    #[test]
    fn an_unknown_name_gets_a_hint() {
        let error = Catalogue::default().find("java17").expect_err("there is none");
        assert!(error.to_string().contains("did you mean `java-17`?"), "{error}");
    }

    #[test]
    fn an_artifact_that_cannot_run_there_is_refused() {
        let catalogue = Catalogue::default();
        let refused = |name: &str, facts: &ArtifactFacts| {
            catalogue.choose(name, facts, false).expect_err("it does not suit").to_string()
        };
        assert!(refused("java-17", &war(17, None)).contains("it takes jar"));
        assert!(refused("java-17", &jar(21)).contains("needs Java 21"));
        assert!(refused("scratch", &elf(Some("/lib/ld.so"))).contains("/lib/ld.so"));
        assert!(refused("tomcat-10", &war(17, Some(ServletApi::Javax))).contains("javax.servlet"));
        let library = ArtifactFacts::Jar(JarFacts::default());
        assert!(refused("java-17", &library).contains("Main-Class"));
    }

    const OURS: &str = r#"
        [[environment]]
        name = "java-17"
        aliases = ["ours"]
        tags = ["v1"]
        description = "ours"
        kinds = ["jar"]
        base = "registry.example/java:17"
        layering = "as-is"
        destination = "/srv/{file}"
    "#;

    #[test]
    fn a_file_adds_and_replaces_and_unknown_keys_are_refused() {
        let catalogue = Catalogue::default().extended(OURS).expect("it parses");
        assert_eq!(catalogue.find("java-17").expect("it is there").description, "ours");
        let error = Catalogue::default().extended(&OURS.replace("base =", "bass ="));
        assert!(matches!(error, Err(CatalogueError::Syntax(_))));
    }

    #[test]
    fn a_script_is_written_into_the_commands_that_name_it() {
        let text = format!(
            "[script]\nstart = \"\"\"\nset -f\nexec \\\"$@\\\"\n\"\"\"\n{OURS}\
            entrypoint = [\"/bin/sh\", \"-c\", \"{{script:start}}\"]\n\
            other_base = {{ command = [\"{{script:start}}\"] }}\n"
        );
        let catalogue = Catalogue::default().extended(&text).expect("it parses");
        let mut found = catalogue.find("java-17").expect("it is there");
        let script = "set -f\nexec \"$@\"";
        assert_eq!(found.entrypoint, Some(vec!["/bin/sh".into(), "-c".into(), script.into()]));
        let built_in = format!("{OURS}command = [\"{{script:java}}\"]\n");
        let other = Catalogue::default().extended(&built_in).expect("it parses");
        let command = other.find("java-17").expect("it is there").command.expect("a command");
        assert!(command[0].contains("exec java"), "{command:?}");
        found.move_to_other_base();
        assert_eq!((found.entrypoint, found.command), (None, Some(vec![script.into()])));
        for wrong in [text.replace("start =", "other ="), text.replace("set -f", "{script:start}")]
        {
            let error = Catalogue::default().extended(&wrong).expect_err("there is none");
            assert!(error.to_string().contains("no script `start`"), "{error}");
        }
    }

    #[test]
    fn every_environment_of_java_reads_its_options_when_it_starts() {
        let catalogue = Catalogue::default();
        for environment in catalogue.environments().iter().filter(|known| known.auto) {
            let Some(java) = environment.java else { continue };
            let name = &environment.name;
            let script = environment.entrypoint.as_ref().map(|entrypoint| entrypoint[2].as_str());
            let script = script.expect("a script");
            for part in ["$JAVA_OPTIONS", "exec ", "MaxRAMPercentage=75", "$HOME"] {
                assert!(script.contains(part), "{name}: {script}");
            }
            assert!(environment.understands.iter().any(|known| known == "JAVA_OPTIONS"), "{name}");
            let home = environment.env.get("HOME").expect("a home");
            assert_eq!(environment.working_dir.as_ref(), Some(home), "{name}");
            assert!(environment.writable.contains(home), "{name}");
            let mut other = environment.clone();
            other.move_to_other_base();
            let command = other.entrypoint.unwrap_or_default();
            assert!(!command.iter().any(|part| part.contains("/bin/sh")), "{name}");
            let ignores = command.iter().any(|part| part.contains("IgnoreUnrecognizedVMOptions"));
            assert_eq!(ignores, java == 8 && environment.servlet.is_none(), "{name}");
        }
    }

    #[test]
    fn what_is_no_directory_to_write_to_is_refused() {
        for path in ["tmp", "/", "/a/../b", "/a//b", ""] {
            let text = format!("{OURS}writable = [{path:?}]\n");
            assert!(Catalogue::default().extended(&text).is_err(), "{path}");
        }
        let text = format!("{OURS}writable = [\"/var/lib/app\"]\n");
        assert!(Catalogue::default().extended(&text).is_ok());
    }

    #[test]
    fn names_and_tags_of_a_file_that_could_not_be_found_are_refused() {
        for (right, wrong) in [
            ("\"java-17\"", "\"java:17\""),
            ("\"java-17\"", "\"docker.io/java\""),
            ("\"java-17\"", "\"auto\""),
            ("\"ours\"]", "\"our:s\"]"),
            ("\"ours\"]", "\"\"]"),
            ("\"v1\"", "\"v 1\""),
        ] {
            let error = Catalogue::default().extended(&OURS.replace(right, wrong));
            assert!(matches!(error, Err(CatalogueError::Entry { .. })), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn a_name_counts_before_an_alias_of_another_environment() {
        let built_in = Catalogue::default();
        let alias = built_in.environments().iter().find_map(|known| known.aliases.first());
        let text = OURS.replace("\"java-17\"", &format!("{:?}", alias.expect("there are some")));
        let catalogue = built_in.clone().extended(&text).expect("it parses");
        assert_eq!(catalogue.find(alias.expect("some")).expect("it is there").description, "ours");
    }
}
