// SPDX-License-Identifier: Apache-2.0

//! What an artifact is and needs, from its bytes and never from its name.
//!
//! The name is only compared with the bytes: a client that uploads a WAR as `app.jar` expects
//! something that will not happen.
//!
//! What a JVM and a server must have is told by many things, and no one of them is enough: the
//! classes of the application, its launcher, its libraries, its framework and its descriptors. All
//! of them are asked here, and the facts say which one told what.

mod bundle;
mod class_file;
mod descriptor;
mod java;
mod libraries;
mod library;
mod servlet;
mod start;

use std::path::Path;

use slipway_proto::ArtifactFacts;
use slipway_proto::artifact::{ExecutableFacts, JarFacts, SpringBootFacts, WarFacts};

use crate::bundle::Format;
use crate::invalid::{Code, InspectError};
use crate::manifest::Manifest;
use crate::source::Source;
use crate::spring_boot::{LAYERS_INDEX, is_spring_boot};
use crate::zip::Archive;
use crate::zip::starts::Starts;
use crate::{elf, foreign};
use class_file::{Newest, is_loaded};
use java::Release;
use libraries::Libraries;

/// Numbers what [`inspect`] finds in the same bytes. Raise it with every change, so that facts that
/// were remembered before are found out again.
pub const VERSION: u32 = 3;

/// Where a WAR has what is not served. Its being there makes an archive a WAR.
const WEB_INF: &str = "WEB-INF/";
/// Where a WAR has the application's own classes.
const WAR_CLASSES: &str = "WEB-INF/classes/";
/// Where a WAR has its libraries.
const WAR_LIBRARIES: &str = "WEB-INF/lib/";
/// Where a Spring Boot WAR has libraries for a start without a server.
const PROVIDED_LIBRARIES: &str = "WEB-INF/lib-provided/";

const BOOT_INF: &str = "BOOT-INF/";
/// Where a Spring Boot archive has the application's own classes.
const BOOT_CLASSES: &str = "BOOT-INF/classes/";

/// Reads what an artifact is and what it needs of a base image. `filename` is the name it was
/// uploaded under.
///
/// Blocks while it reads, so call it on a thread that may block.
///
/// # Errors
///
/// [`InspectError::Invalid`] for bytes that are refused, [`InspectError::Read`] when they cannot
/// be read.
pub fn inspect(source: &dyn Source, filename: &str) -> Result<ArtifactFacts, InspectError> {
    inspect_in(source, filename, &std::env::temp_dir())
}

/// As [`inspect`], with the directory in which a compressed bundle is unpacked, to a file without a
/// name.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_in(
    source: &dyn Source,
    filename: &str,
    scratch: &Path,
) -> Result<ArtifactFacts, InspectError> {
    let facts = facts(source, filename, scratch)?;
    if let Err(mismatch) = facts.named(filename) {
        return Err(InspectError::invalid(Code::KindMismatch, mismatch.to_string()));
    }
    Ok(facts)
}

fn facts(
    source: &dyn Source,
    filename: &str,
    scratch: &Path,
) -> Result<ArtifactFacts, InspectError> {
    if source.is_empty() {
        return Err(InspectError::invalid(
            Code::NotAnArtifact,
            "the file is empty: was the upload's body left out?",
        ));
    }
    if is_elf(source)? {
        return elf::inspect(source).map(ArtifactFacts::Binary);
    }
    if Format::of(source)?.is_some() {
        return bundle::inspect(source, scratch).map(ArtifactFacts::Bundle);
    }
    let archive = Archive::read(source).map_err(|error| foreign::explain(error, source))?;
    if archive.entries().is_empty() {
        return Err(InspectError::invalid(
            Code::NotAnArtifact,
            "the archive is empty: upload one with classes in it",
        ));
    }
    if bundle::is_zip(&archive, filename) {
        return bundle::inspect(source, scratch).map(ArtifactFacts::Bundle);
    }
    let manifest = Manifest::read(&archive, source)?;
    let mut inspection =
        Inspection { archive: &archive, source, manifest, starts: Starts::default() };
    if is_war(&archive) {
        return inspection.war().map(ArtifactFacts::War);
    }
    inspection.jar().map(ArtifactFacts::Jar)
}

/// Returns whether an archive is a WAR.
#[must_use]
pub fn is_war(archive: &Archive) -> bool {
    archive.entries().iter().any(|entry| entry.name.starts_with(WEB_INF))
}

fn is_elf(source: &dyn Source) -> Result<bool, InspectError> {
    let mut magic = [0; 4];
    if source.len() < 4 {
        return Ok(false);
    }
    source.read_exact_at(0, &mut magic)?;
    Ok(&magic == elf::MAGIC)
}

/// An archive that is being looked at.
struct Inspection<'a> {
    archive: &'a Archive,
    source: &'a dyn Source,
    manifest: Manifest,
    starts: Starts,
}

impl Inspection<'_> {
    fn main_class(&self) -> Option<String> {
        self.manifest.get("Main-Class").filter(|class| !class.is_empty()).map(str::to_owned)
    }

    fn jar(&mut self) -> Result<JarFacts, InspectError> {
        let spring_boot = self.spring_boot();
        let mut release = Release::default();
        if spring_boot.is_some() {
            // Its entries become files.
            self.archive.unpacked()?;
            let classes = self.manifest.get("Spring-Boot-Classes").unwrap_or(BOOT_CLASSES);
            let classes = classes.to_owned();
            release.classes(&self.classes(|name| match name.strip_prefix(&classes) {
                Some(class) => is_loaded(class.as_bytes()),
                // The launcher.
                None => !name.starts_with(BOOT_INF) && is_loaded(name.as_bytes()),
            })?);
            release.spring_boot(&self.manifest);
        } else {
            release.classes(&self.classes(|name| is_loaded(name.as_bytes()))?);
        }
        if let Some((version, name)) = &self.libraries(|_| true)?.newest {
            release.library(*version, name);
        }
        let (java_release, java) = release.facts(&self.manifest);
        let main_class = self.main_class();
        // A Spring Boot JAR is unpacked, and its launcher does not follow `Class-Path`.
        let unfollowed = Manifest::default();
        let manifest = if spring_boot.is_some() { &unfollowed } else { &self.manifest };
        let warnings =
            main_class.as_ref().map(|main| start::warnings(self.archive, manifest, main));
        let warnings = warnings.unwrap_or_default();
        Ok(JarFacts { java_release, java, main_class, spring_boot, warnings })
    }

    fn war(&mut self) -> Result<WarFacts, InspectError> {
        let main_class = self.main_class();
        let not_unpackable = match (self.archive.unpacked(), &main_class) {
            (Ok(_), _) => None,
            // It can still be started as it is.
            (Err(InspectError::Invalid(invalid)), Some(_)) => Some(invalid.message),
            (Err(error), _) => return Err(error),
        };
        let mut release = Release::default();
        release.classes(&self.classes(|name| {
            name.strip_prefix(WAR_CLASSES).is_some_and(|class| is_loaded(class.as_bytes()))
        })?);
        release.spring_boot(&self.manifest);
        let libraries = self.libraries(|name| name.starts_with(WAR_LIBRARIES))?;
        if let Some((version, name)) = &libraries.newest {
            release.library(*version, name);
        }
        let executable = match main_class {
            Some(main_class) => Some(self.executable(main_class, release.clone())?),
            None => None,
        };
        let (java_release, java) = release.facts(&self.manifest);
        let servlet::Told { api, facts, warnings } = servlet::Search {
            archive: self.archive,
            source: self.source,
            manifest: &self.manifest,
            libraries: &libraries,
        }
        .run(&mut self.starts)?;
        Ok(WarFacts {
            java_release,
            java,
            servlet_api: api,
            servlet: facts,
            executable,
            not_unpackable,
            warnings,
        })
    }

    /// Reads what a WAR needs to start by itself, beside what it needs in a server.
    fn executable(
        &mut self,
        main_class: String,
        mut release: Release,
    ) -> Result<ExecutableFacts, InspectError> {
        release.classes(
            &self.classes(|name| !name.starts_with(WEB_INF) && is_loaded(name.as_bytes()))?,
        );
        let provided = self.libraries(|name| name.starts_with(PROVIDED_LIBRARIES))?;
        if let Some((version, name)) = &provided.newest {
            release.library(*version, name);
        }
        let (java_release, java) = release.facts(&self.manifest);
        let warnings = start::warnings(self.archive, &self.manifest, &main_class);
        Ok(ExecutableFacts { main_class, java_release, java, warnings })
    }

    fn spring_boot(&self) -> Option<SpringBootFacts> {
        if !is_spring_boot(&self.manifest) {
            return None;
        }
        let index = self.manifest.get("Spring-Boot-Layers-Index").unwrap_or(LAYERS_INDEX);
        Some(SpringBootFacts {
            version: self.manifest.get("Spring-Boot-Version").map(str::to_owned),
            layers_index: self.archive.find(index).is_some(),
        })
    }

    fn classes(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Newest, InspectError> {
        let wanted = |entry: &crate::Entry| wanted(&entry.name);
        Ok(Newest::of(self.archive, self.source, &mut self.starts, wanted)?)
    }

    fn libraries(&mut self, is_library: impl Fn(&str) -> bool) -> Result<Libraries, InspectError> {
        Ok(Libraries::look(self.archive, self.source, &mut self.starts, is_library)?)
    }
}

#[cfg(test)]
mod tests;
