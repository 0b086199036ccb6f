// SPDX-License-Identifier: Apache-2.0

//! What was read from a bundle: a directory in an archive.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ElfFacts, JavaFacts};

/// The extensions of archives that hold a directory.
pub const BUNDLE_EXTENSIONS: [&str; 4] = [".tar.gz", ".tgz", ".tar", ".zip"];

/// How many names a message lists.
const MOST_NAMED: usize = 10;

/// Facts of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFacts {
    /// The name of the one directory at the top of the archive, which is left out of the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What it was recognised as, which says how it is started.
    pub form: BundleForm,
    /// The oldest Java release that runs it, as far as its JARs tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub java_release: Option<u16>,
    /// What else it needs of Java.
    #[serde(default, skip_serializing_if = "JavaFacts::is_empty")]
    pub java: JavaFacts,
}

/// The forms of bundles that tell how they are started. Paths are relative to the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum BundleForm {
    /// Quarkus' default packaging: `quarkus-run.jar` with `lib/`, `quarkus/` and `app/`.
    QuarkusFastJar,
    /// Start scripts in `bin/` that build tools write, and the JARs that they name.
    StartScripts {
        /// The names of the scripts, sorted.
        scripts: Vec<String>,
    },
    /// An executable JAR at the top, and beside it the libraries that its manifest names: a Spring
    /// Boot JAR after `extract`, or what Maven's plugins copy.
    Jar {
        /// The name of the JAR.
        jar: String,
    },
    /// ELF executables with the files that they need.
    Executables {
        /// The executables, sorted by path.
        executables: Vec<BundleExecutable>,
    },
    /// Nothing that is known. The request has to say how it is started.
    Unknown,
}

/// An executable of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleExecutable {
    /// Its path in the bundle.
    pub path: String,
    /// What it needs.
    pub facts: ElfFacts,
}

impl BundleForm {
    /// Returns whether Java starts it.
    #[must_use]
    pub fn is_java(&self) -> bool {
        matches!(self, Self::QuarkusFastJar | Self::StartScripts { .. } | Self::Jar { .. })
    }
}

impl BundleFacts {
    /// Returns the facts with the one program that is started, of several that are in the bundle:
    /// the one that is named as the directory, or as the artifact. An executable may also be named
    /// by an entrypoint of the request; if that names none of them, the first one stands for all.
    #[must_use]
    pub fn narrowed(&self, filename: &str, entrypoint: &[String]) -> Self {
        let directory = self.directory.iter().map(String::as_str);
        let names: Vec<&str> = directory.chain([bundle_name(filename)]).collect();
        let form = match &self.form {
            BundleForm::StartScripts { scripts } => {
                let named = named_as(&names, &scripts.iter().map(|script| (&**script, script)));
                let scripts = named.map_or_else(|| scripts.clone(), |one| vec![one.clone()]);
                BundleForm::StartScripts { scripts }
            }
            BundleForm::Executables { executables } => {
                let files = executables.iter().map(|one| (file_name(&one.path), one));
                let named = match entrypoint.first() {
                    None => named_as(&names, &files),
                    Some(command) => {
                        let is_named = |one: &&BundleExecutable| {
                            command
                                .strip_suffix(&*one.path)
                                .is_some_and(|above| above.ends_with('/'))
                        };
                        executables.iter().find(is_named).or(executables.first())
                    }
                };
                let executables =
                    named.map_or_else(|| executables.clone(), |one| vec![one.clone()]);
                BundleForm::Executables { executables }
            }
            other => other.clone(),
        };
        Self { form, ..self.clone() }
    }

    /// Returns the executable that is started, if it is one and there is one.
    #[must_use]
    pub fn executable(&self) -> Option<&BundleExecutable> {
        match &self.form {
            BundleForm::Executables { executables } if executables.len() == 1 => {
                executables.first()
            }
            _ => None,
        }
    }

    /// Returns whether it is for Java: one that is not recognised is if it has JARs.
    #[must_use]
    pub fn runs_on_java(&self) -> bool {
        self.form.is_java() || self.java_release.is_some()
    }

    /// Says why nothing tells how the bundle is started, and what to do.
    #[must_use]
    pub fn no_start(&self) -> Option<String> {
        let (what, names) = match &self.form {
            BundleForm::StartScripts { scripts } if scripts.len() > 1 => {
                let paths = scripts.iter().map(|script| format!("bin/{script}")).collect();
                ("start scripts", List(paths))
            }
            BundleForm::Executables { executables } if executables.len() > 1 => {
                let paths = executables.iter().map(|one| one.path.clone()).collect();
                ("executables", List(paths))
            }
            BundleForm::Unknown => {
                return Some(
                    "nothing in the bundle tells how it is started: name the command in \
                    `entrypoint`. Quarkus' fast-jar, `bin/` and `lib/` of Gradle's and Maven's \
                    start scripts, an executable JAR beside its libraries, and one executable with \
                    its files need none"
                        .to_owned(),
                );
            }
            _ => return None,
        };
        Some(format!(
            "the bundle has several {what}: {names}. Name the command in `entrypoint`, or give the \
            artifact the name of one of them"
        ))
    }
}

/// Names in a message.
struct List(Vec<String>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(MOST_NAMED).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let shown: String = name.chars().take(120).flat_map(char::escape_debug).collect();
            write!(f, "{separator}`{shown}`")?;
        }
        match self.0.len().saturating_sub(MOST_NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Returns the file name of a bundle without its extension.
#[must_use]
pub fn bundle_name(filename: &str) -> &str {
    let lower = filename.to_ascii_lowercase();
    let extension = BUNDLE_EXTENSIONS.iter().find(|extension| lower.ends_with(**extension));
    extension.map_or(filename, |extension| &filename[..filename.len() - extension.len()])
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns what has one of the names, or, if there is nothing, what a name starts with when its
/// version is left out: `app` for `app-1.0`.
fn named_as<'a, T>(
    names: &[&str],
    candidates: &(impl Iterator<Item = (&'a str, T)> + Clone),
) -> Option<T> {
    let exact = |name: &&str| candidates.clone().find(|(candidate, _)| candidate == name);
    let versioned = |name: &&str| {
        let is_version = |rest: &str| {
            rest.strip_prefix('-')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        candidates
            .clone()
            .find(|(candidate, _)| name.strip_prefix(candidate).is_some_and(is_version))
    };
    let found = names.iter().find_map(exact).or_else(|| names.iter().find_map(versioned));
    found.map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Architecture;

    fn scripts(directory: Option<&str>, scripts: &[&str]) -> BundleFacts {
        let scripts = scripts.iter().map(|script| (*script).to_owned()).collect();
        BundleFacts {
            directory: directory.map(str::to_owned),
            form: BundleForm::StartScripts { scripts },
            java_release: None,
            java: JavaFacts::default(),
        }
    }

    #[test]
    fn of_several_programs_the_one_that_is_named_as_the_directory_is_started() {
        let started = |facts: BundleFacts, filename: &str| match facts.narrowed(filename, &[]).form
        {
            BundleForm::StartScripts { scripts } => scripts.join(" "),
            other => panic!("{other:?}"),
        };
        assert_eq!(started(scripts(Some("shop"), &["admin", "shop"]), "x.zip"), "shop");
        assert_eq!(started(scripts(Some("shop-1.2"), &["admin", "shop"]), "x.zip"), "shop");
        assert_eq!(started(scripts(None, &["admin", "shop"]), "shop-2.tar.gz"), "shop");
        assert_eq!(started(scripts(Some("dist"), &["admin", "shop"]), "admin"), "admin");
        assert_eq!(started(scripts(Some("shop-x"), &["admin", "shop"]), "x"), "admin shop");
        assert_eq!(started(scripts(None, &["one"]), "x"), "one");
    }

    #[test]
    fn an_executable_is_also_named_by_the_entrypoint() {
        let executable = |path: &str, architecture| BundleExecutable {
            path: path.to_owned(),
            facts: ElfFacts::new(architecture, None),
        };
        let executables =
            vec![executable("bin/a", Architecture::Amd64), executable("b", Architecture::Arm64)];
        let form = BundleForm::Executables { executables };
        let facts = BundleFacts { form, ..scripts(None, &[]) };
        let started = |filename: &str, command: &[&str]| {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            let narrowed = facts.narrowed(filename, &command);
            narrowed.executable().map(|one| one.path.clone())
        };
        assert_eq!(started("b.tgz", &[]).as_deref(), Some("b"));
        assert_eq!(started("x", &[]), None);
        assert_eq!(started("b", &["/app/bin/a", "b"]).as_deref(), Some("bin/a"));
        assert_eq!(started("x", &["/app/b"]).as_deref(), Some("b"));
        assert_eq!(started("x", &["/bin/sh"]).as_deref(), Some("bin/a"));
    }

    #[test]
    fn what_does_not_tell_how_it_is_started_says_what_to_do() {
        let several =
            scripts(None, &["admin", "shop"]).narrowed("x", &[]).no_start().expect("a text");
        assert!(several.contains("`bin/admin`, `bin/shop`"), "{several}");
        assert!(several.contains("entrypoint"), "{several}");
        assert_eq!(scripts(None, &["shop"]).no_start(), None);
        let many: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = scripts(None, &many).no_start().expect("a text");
        assert!(text.contains("`bin/9` and 2 more"), "{text}");
        let unknown = BundleFacts { form: BundleForm::Unknown, ..scripts(None, &[]) };
        assert!(unknown.no_start().expect("a text").contains("`entrypoint`"));
    }

    #[test]
    fn a_bundle_is_named_by_its_file_without_the_extension() {
        for (filename, name) in [
            ("app-1.0.tar.gz", "app-1.0"),
            ("app.TGZ", "app"),
            ("app.zip", "app"),
            ("app", "app"),
            (".tar", ""),
        ] {
            assert_eq!(bundle_name(filename), name);
        }
    }
}
