// SPDX-License-Identifier: Apache-2.0

//! The Java release an archive needs, from everything that tells it.

use std::collections::BTreeMap;

use slipway_proto::artifact::JavaFacts;

use super::class_file::{Newest, Version};
use crate::manifest::Manifest;

/// What was found so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Release {
    /// What the application, its launcher and its framework need, and what told it.
    own: Option<(u16, String)>,
    /// What its libraries need.
    libraries: Option<(u16, String)>,
    previews: BTreeMap<u16, String>,
}

impl Release {
    /// Adds the classes that are certainly loaded.
    pub(super) fn classes(&mut self, newest: &Newest) {
        if let Some((release, name)) = newest.release() {
            newer(&mut self.own, release, name);
        }
        for (release, name) in newest.previews() {
            self.previews.entry(*release).or_insert_with(|| name.clone());
        }
    }

    /// Adds the release that a framework asks for, whatever its classes say.
    pub(super) fn spring_boot(&mut self, manifest: &Manifest) {
        if let Some((version, major)) = spring_boot(manifest)
            && major >= 3
        {
            // System requirements of Spring Boot 3.0 and 4.0.
            newer(&mut self.own, 17, &format!("Spring Boot {version}"));
        }
    }

    /// Adds the newest of the libraries; `name` is quoted.
    pub(super) fn library(&mut self, version: Version, name: &str) {
        newer(&mut self.libraries, version.release, name);
        // A library that needs another release than the application cannot be helped.
        let own = self.own.as_ref().map_or(0, |(release, _)| *release);
        if version.is_preview && self.previews.is_empty() && own <= version.release {
            self.previews.insert(version.release, name.to_owned());
        }
    }

    /// Returns the release and the facts. Where nothing else tells it, the manifest may name the
    /// JDK that built the archive, which is at least what it needs.
    pub(super) fn facts(self, manifest: &Manifest) -> (Option<u16>, JavaFacts) {
        let Self { own, libraries, previews } = self;
        let is_newer = |library: &(u16, String)| own.as_ref().is_none_or(|own| library.0 > own.0);
        let library = libraries.filter(is_newer);
        let own_release = library.as_ref().and(own.as_ref()).map(|(release, _)| *release);
        let told = library.or(own).or_else(|| manifest_release(manifest));
        let (release, told_by) = told.unzip();
        let told_by = previews.values().next().cloned().or(told_by);
        (release, JavaFacts { told_by, own_release, previews: previews.into_keys().collect() })
    }
}

fn newer(known: &mut Option<(u16, String)>, release: u16, by: &str) {
    if known.as_ref().is_none_or(|(known, _)| *known < release) {
        *known = Some((release, by.to_owned()));
    }
}

/// Returns Spring Boot's version and its first number, if the manifest says one.
pub(super) fn spring_boot(manifest: &Manifest) -> Option<(String, u16)> {
    let version = manifest.get("Spring-Boot-Version")?;
    let major = version.split(|character: char| !character.is_ascii_digit()).next()?;
    let shown = version.chars().take(40).flat_map(char::escape_debug).collect();
    Some((shown, major.parse().ok()?))
}

/// Returns the Java release that a manifest names, from the attributes that Maven, Gradle and the
/// JDK's own tools write, and which attribute that is.
fn manifest_release(manifest: &Manifest) -> Option<(u16, String)> {
    ["Build-Jdk-Spec", "X-Compile-Target-JDK", "Build-Jdk", "Created-By"].into_iter().find_map(
        |name| {
            let release = release(manifest.get(name)?)?;
            Some((release, format!("`{name}` of its manifest")))
        },
    )
}

/// Reads `17`, `17.0.9+9`, `1.8` and `1.8.0_392 (Debian)`, and nothing from `Maven 3.9`.
fn release(version: &str) -> Option<u16> {
    let mut numbers = version.split(|character: char| !character.is_ascii_digit());
    let first: u16 = numbers.next()?.parse().ok()?;
    match first {
        1 => numbers.next()?.parse().ok(),
        release => Some(release),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_from_a_manifest() {
        let cases = [
            ("Build-Jdk-Spec: 17", Some(17)),
            ("Build-Jdk: 1.8.0_392", Some(8)),
            ("Created-By: 21.0.1 (Eclipse Adoptium)", Some(21)),
            ("X-Compile-Target-JDK: 11", Some(11)),
            ("Created-By: Maven JAR Plugin 3.4.1\nBuild-Jdk-Spec: 25", Some(25)),
            ("Created-By: Maven JAR Plugin 3.4.1", None),
            ("Build-Jdk: 99999999", None),
            ("Build-Jdk: 1", None),
        ];
        for (text, expected) in cases {
            let manifest = Manifest::parse(text.as_bytes());
            assert_eq!(Release::default().facts(&manifest).0, expected, "{text}");
        }
    }

    #[test]
    fn a_framework_has_a_release_of_its_own() {
        for (version, expected) in [
            ("2.7.18", None),
            ("3.0.0-M1", Some(17)),
            ("4.0.0", Some(17)),
            ("10.1", Some(17)),
            ("${spring-boot.version}", None),
            ("", None),
        ] {
            let text = format!("Spring-Boot-Version: {version}\n");
            let manifest = Manifest::parse(text.as_bytes());
            let mut release = Release::default();
            release.spring_boot(&manifest);
            assert_eq!(release.facts(&manifest).0, expected, "{version}");
        }
    }

    fn told(own: u16, library: Version) -> (Option<u16>, JavaFacts) {
        let mut release = Release { own: Some((own, "`A.class`".into())), ..Release::default() };
        release.library(library, "`a.jar`");
        release.facts(&Manifest::default())
    }

    #[test]
    fn a_library_counts_where_it_is_newer_and_is_told_from_the_application() {
        let library = |release| Version { release, is_preview: false };
        let (release, facts) = told(17, library(21));
        assert_eq!((release, facts.own_release), (Some(21), Some(17)));
        assert_eq!(facts.told_by.as_deref(), Some("`a.jar`"));
        let (release, facts) = told(17, library(17));
        assert_eq!((release, facts.own_release), (Some(17), None));
        assert_eq!(facts.told_by.as_deref(), Some("`A.class`"));
    }

    #[test]
    fn preview_features_of_a_library_count_unless_the_application_is_newer() {
        let preview = Version { release: 21, is_preview: true };
        assert_eq!(told(17, preview).1.previews, [21]);
        assert_eq!(told(25, preview).1.previews, [0; 0]);
    }
}
