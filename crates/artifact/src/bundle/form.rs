// SPDX-License-Identifier: Apache-2.0

//! What a bundle is recognised as, which says how it is started and how it is divided into layers.

use std::collections::HashSet;

use slipway_proto::artifact::{BundleExecutable, BundleForm, ElfFacts};

use super::Files;
use super::script::{LONGEST_SCRIPT, Script};
use crate::elf;
use crate::invalid::InspectError;
use crate::manifest::Manifest;
use crate::zip::Archive;

/// The JAR that starts a Quarkus application.
pub const QUARKUS_RUN: &str = "quarkus-run.jar";

/// More executables than this are no application with one of them as its start.
const MOST_EXECUTABLES: usize = 64;

/// How Java starts a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// What `java` is started with.
    pub arguments: Vec<String>,
    /// The first JAR that the program is loaded from.
    first: Option<String>,
    /// The JARs that the program is loaded from.
    jars: HashSet<String>,
}

impl Launch {
    fn new(arguments: Vec<String>, path: impl IntoIterator<Item = String>) -> Self {
        let mut jars = path.into_iter().filter(|path| is_jar(path)).peekable();
        let first = jars.peek().cloned();
        Self { arguments, first, jars: jars.collect() }
    }

    /// Returns whether the program is loaded from a JAR.
    #[must_use]
    pub fn loads(&self, path: &str) -> bool {
        self.jars.contains(path)
    }
}

/// Returns whether a JAR of a bundle holds the application itself, as far as names and places tell.
/// The others are its libraries.
#[must_use]
pub fn is_own(form: &BundleForm, launch: &Launch, path: &str) -> bool {
    let is_first = launch.first.as_deref() == Some(path);
    match form {
        BundleForm::QuarkusFastJar => !path.starts_with("lib/"),
        BundleForm::Jar { .. } => is_first || path.contains("-SNAPSHOT"),
        BundleForm::StartScripts { scripts } => {
            let name = path.rsplit('/').next().unwrap_or(path);
            let is_named = || scripts.iter().any(|script| name.starts_with(script.as_str()));
            is_first || path.contains("-SNAPSHOT") || is_named()
        }
        BundleForm::Executables { .. } | BundleForm::Unknown => false,
    }
}

/// Recognises a bundle.
///
/// # Errors
///
/// When its files cannot be read. A JAR that is none, or a script that is another one, is no error.
pub fn recognise(files: Files<'_>) -> Result<BundleForm, InspectError> {
    let tree = files.tree;
    if tree.file(QUARKUS_RUN).is_some()
        && ["app", "lib/boot", "lib/main", "quarkus"].iter().all(|path| tree.has_directory(path))
    {
        return Ok(BundleForm::QuarkusFastJar);
    }
    let scripts = scripts(files)?;
    if !scripts.is_empty() {
        return Ok(BundleForm::StartScripts { scripts });
    }
    if let Some(jar) = executable_jar(files)? {
        return Ok(BundleForm::Jar { jar });
    }
    let executables = executables(files)?;
    if executables.is_empty() || executables.len() > MOST_EXECUTABLES {
        return Ok(BundleForm::Unknown);
    }
    Ok(BundleForm::Executables { executables })
}

/// Returns how Java starts a bundle that lies in the directory `home` of the image; `None` if
/// nothing tells, or if Java does not.
///
/// # Errors
///
/// When its files cannot be read.
pub fn launch(
    form: &BundleForm,
    files: Files<'_>,
    home: &str,
) -> Result<Option<Launch>, InspectError> {
    let jar = |name: &str, path: Vec<String>| {
        let arguments = vec!["-jar".to_owned(), format!("{home}/{name}")];
        Some(Launch::new(arguments, path))
    };
    match form {
        BundleForm::QuarkusFastJar => {
            let path = files.tree.files().map(|(path, _)| path.to_owned());
            Ok(jar(QUARKUS_RUN, path.collect()))
        }
        BundleForm::Jar { jar: name } => {
            let manifest = manifest(files, name)?.unwrap_or_default();
            let jars = std::iter::once(name.clone()).chain(class_path(files, &manifest));
            Ok(jar(name, jars.collect()))
        }
        BundleForm::StartScripts { scripts } => {
            let [name] = &scripts[..] else { return Ok(None) };
            let script = script(files, name, home)?;
            Ok(script.map(|script| Launch::new(script.arguments, script.path)))
        }
        BundleForm::Executables { .. } | BundleForm::Unknown => Ok(None),
    }
}

/// Returns the names of the start scripts in `bin/` that load a JAR of the bundle.
fn scripts(files: Files<'_>) -> Result<Vec<String>, InspectError> {
    let mut found = Vec::new();
    for (path, _) in files.tree.files() {
        let Some(name) = path.strip_prefix("bin/").filter(|name| !name.contains('/')) else {
            continue;
        };
        let Some(script) = script(files, name, "/app")? else { continue };
        if script.path.iter().any(|path| files.tree.file(path).is_some()) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

fn script(files: Files<'_>, name: &str, home: &str) -> Result<Option<Script>, InspectError> {
    let Some(file) = files.tree.file(&format!("bin/{name}")) else { return Ok(None) };
    if file.size > LONGEST_SCRIPT as u64 {
        return Ok(None);
    }
    let bytes = files.start(file, LONGEST_SCRIPT)?;
    let text = std::str::from_utf8(&bytes).ok();
    Ok(text.and_then(|text| Script::parse(text, name, home)))
}

/// Returns the name of the one JAR at the top that can be started and whose manifest names libraries
/// of the bundle.
fn executable_jar(files: Files<'_>) -> Result<Option<String>, InspectError> {
    let mut found = Vec::new();
    for (path, _) in files.tree.files() {
        if path.contains('/') || !is_jar(path) {
            continue;
        }
        let Some(manifest) = manifest(files, path)? else { continue };
        let starts = manifest.get("Main-Class").is_some_and(|main| !main.is_empty());
        if starts && class_path(files, &manifest).next().is_some() {
            found.push(path.to_owned());
        }
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// Returns the manifest of a JAR at the top; `None` if it is no JAR.
fn manifest(files: Files<'_>, path: &str) -> Result<Option<Manifest>, InspectError> {
    let Some(file) = files.tree.file(path) else { return Ok(None) };
    let content = files.content(file);
    let read = Archive::read(&content).and_then(|archive| Manifest::read(&archive, &content));
    match read {
        Ok(manifest) => Ok(Some(manifest)),
        Err(InspectError::Invalid(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the files of the bundle that the class path of a manifest names, in its order.
fn class_path<'a>(files: Files<'a>, manifest: &Manifest) -> impl Iterator<Item = String> + use<'a> {
    let named: Vec<String> = manifest
        .get("Class-Path")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(|path| path.strip_prefix("./").unwrap_or(path).to_owned())
        .collect();
    named.into_iter().filter(move |path| files.tree.file(path).is_some())
}

/// Returns the ELF executables. Shared libraries and files for other systems are none.
fn executables(files: Files<'_>) -> Result<Vec<BundleExecutable>, InspectError> {
    let mut found = Vec::new();
    for (path, file) in files.tree.files() {
        if file.size < elf::MAGIC.len() as u64 || files.start(file, 4)? != elf::MAGIC {
            continue;
        }
        match elf::inspect(&files.content(file)) {
            Ok(mut facts) => {
                facts.libraries = missing(files, path, &facts);
                found.push(BundleExecutable { path: path.to_owned(), facts });
            }
            Err(InspectError::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns the libraries of an executable that are not in the bundle where it looks for them.
fn missing(files: Files<'_>, path: &str, facts: &ElfFacts) -> Vec<String> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let search = facts.search_path.as_deref().unwrap_or_default();
    let places: Vec<String> = search
        .split(':')
        .filter_map(|place| {
            let below =
                place.strip_prefix("$ORIGIN").or_else(|| place.strip_prefix("${ORIGIN}"))?;
            Some(format!("{directory}{below}"))
        })
        .collect();
    let is_there = |name: &&String| {
        places.iter().any(|place| files.tree.file(&format!("{place}/{name}")).is_some())
    };
    facts.libraries.iter().filter(|name| !is_there(name)).cloned().collect()
}

/// Returns whether a path is that of a JAR.
#[must_use]
pub fn is_jar(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("jar"))
}
