// SPDX-License-Identifier: Apache-2.0

//! Why `java -jar` of an archive may not start it, as far as its manifest tells.

use std::collections::HashSet;

use crate::invalid::quoted;
use crate::manifest::Manifest;
use crate::zip::Archive;

/// How many missing libraries are named.
const MOST_NAMED: usize = 3;

/// Returns what is missing, one sentence each.
pub(super) fn warnings(archive: &Archive, manifest: &Manifest, main_class: &str) -> Vec<String> {
    let missing = missing_libraries(archive, manifest);
    if !missing.is_empty() {
        return vec![missing_sentence(&missing)];
    }
    if !has_class(archive, main_class) {
        return vec![format!(
            "the manifest names the Main-Class {}, which is not in the JAR: build one that holds \
            its classes",
            quoted(main_class)
        )];
    }
    Vec::new()
}

/// Returns the libraries that the manifest's class path names. Java looks for them beside the JAR,
/// where an image has none.
///
/// Directories, configuration and whatever else is no JAR is ordinary there (JAR File
/// Specification, "Class-Path Attribute"): Java passes over what does not exist. Tools that merge
/// libraries into a JAR often leave their names in the manifest, so a library does not count whose
/// Maven descriptor is in the archive.
fn missing_libraries<'a>(archive: &Archive, manifest: &'a Manifest) -> Vec<&'a str> {
    let class_path = manifest.get("Class-Path").unwrap_or_default();
    let is_library = |path: &&str| {
        let path = path.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
        path.ends_with(".jar") || path.ends_with(".zip")
    };
    let mut named = class_path.split_ascii_whitespace().filter(is_library).peekable();
    if named.peek().is_none() {
        return Vec::new();
    }
    let descriptors = archive.entries().iter().filter_map(|entry| {
        let path = entry.name.strip_prefix("META-INF/maven/")?;
        path.split('/').nth(1).filter(|artifact| !artifact.is_empty())
    });
    let merged: HashSet<&str> = descriptors.collect();
    // `dep-api-1.0.jar` is of the artifact `dep-api`: a name up to one of its dashes.
    let is_merged = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        // No file system has a longer name.
        if file.len() > 255 {
            return false;
        }
        let stem = &file[..file.rfind('.').unwrap_or(file.len())];
        let dashes = stem.match_indices('-').map(|(dash, _)| &stem[..dash]);
        dashes.chain([stem]).any(|name| merged.contains(name))
    };
    named.filter(|path| !is_merged(path)).collect()
}

fn missing_sentence(missing: &[&str]) -> String {
    // Readable in the middle of a sentence, and harmless in a terminal.
    let shown = |path: &&str| quoted(path).trim_matches('`').to_owned();
    let names: Vec<String> = missing.iter().take(MOST_NAMED).map(shown).collect();
    let more = match missing.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if missing.len() == 1 { "is" } else { "are" };
    format!(
        "Class-Path names {}{more}, which {verb} not in the upload; upload one that holds its \
        libraries (Quarkus: package type uber-jar; otherwise Maven Shade or Gradle Shadow)",
        names.join(", ")
    )
}

fn has_class(archive: &Archive, class: &str) -> bool {
    let path = format!("{}.class", class.replace('.', "/"));
    let is_of_release = |name: &str| {
        let versioned = name.strip_prefix("META-INF/versions/");
        versioned.and_then(|rest| rest.split_once('/')).is_some_and(|(_, rest)| rest == path)
    };
    archive.find(&path).is_some()
        || archive.entries().iter().any(|entry| is_of_release(&entry.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{stored, zip};

    fn warning(class_path: &str, names: &[&str]) -> String {
        let entries = names.iter().chain(&["a/Main.class"]).map(|name| stored(name, b""));
        let archive = Archive::read(&zip(entries)).expect("it is read");
        let text = format!("Class-Path: {class_path}\n");
        warnings(&archive, &Manifest::parse(text.as_bytes()), "a.Main").join("|")
    }

    #[test]
    fn a_class_path_that_names_absent_libraries_is_told_with_the_remedy() {
        let quarkus = warning("lib/boot/dep-1.0.jar", &[]);
        assert!(
            quarkus.contains("Class-Path names lib/boot/dep-1.0.jar, which is not"),
            "{quarkus}"
        );
        assert!(quarkus.contains("uber-jar"), "{quarkus}");
        let many = warning(". a.jar  conf/ b.JAR ../c.jar file:/usr/share/java/d.zip", &[]);
        assert!(many.contains("names a.jar, b.JAR, ../c.jar and 1 more, which are"), "{many}");
        // Java does not look inside.
        assert!(warning("lib/a.jar", &["lib/a.jar"]).contains("lib/a.jar"));
        assert!(!warning("a\u{1b}[2J.jar", &[]).contains('\u{1b}'));
    }

    #[test]
    fn a_jar_that_holds_all_it_needs_is_built_without_a_word() {
        for class_path in ["", ".", "./ conf/ lib/", "conf/app.properties ../etc", "/"] {
            assert_eq!(warning(class_path, &[]), "", "{class_path}");
        }
        let merged = ["META-INF/maven/org.x/dep-api/pom.xml", "META-INF/maven/org.x/core/pom.xml"];
        assert_eq!(
            warning("lib/dep-api-1.0.jar lib/core.jar lib/core-2-SNAPSHOT.jar", &merged),
            ""
        );
        assert!(warning("lib/dep-1.0.jar", &merged).contains("lib/dep-1.0.jar"));
    }

    #[test]
    fn a_main_class_that_is_not_there_is_told() {
        let found = |names: &[&str]| {
            let archive = Archive::read(&zip(names.iter().map(|name| stored(name, b""))));
            let archive = archive.expect("it is read");
            warnings(&archive, &Manifest::default(), "a.b.Main").is_empty()
        };
        assert!(found(&["a/b/Main.class"]));
        assert!(found(&["META-INF/versions/21/a/b/Main.class"]));
        assert!(!found(&["a/Main.class", "b/Main.class", "META-INF/versions/21/b/Main.class"]));
    }
}
