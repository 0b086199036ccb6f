// SPDX-License-Identifier: Apache-2.0

//! What an artifact is and needs, from its bytes and never from its name.
//!
//! The name is only compared with the bytes: a client that uploads a WAR as `app.jar` expects
//! something that will not happen.

mod java;
mod servlet;

use slipway_proto::artifact::{JarFacts, SpringBootFacts, WarFacts};
use slipway_proto::{ArtifactFacts, ArtifactKind};

use crate::elf;
use crate::invalid::{Code, InspectError, quoted};
use crate::manifest::Manifest;
use crate::source::Source;
use crate::spring_boot::{LAYERS_INDEX, is_spring_boot};
use crate::zip::Archive;

/// The directory that makes an archive a WAR.
const WEB_INF: &str = "WEB-INF/";

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
    if source.is_empty() {
        return Err(InspectError::invalid(
            Code::NotAnArtifact,
            "the file is empty: was the upload's body left out?",
        ));
    }
    if is_elf(source)? {
        check_name(filename, ArtifactKind::Binary)?;
        return elf::inspect(source).map(ArtifactFacts::Binary);
    }
    let archive = Archive::read(source)?;
    if archive.entries().is_empty() {
        return Err(InspectError::invalid(
            Code::NotAnArtifact,
            "the archive is empty: upload one with classes in it",
        ));
    }
    let is_war = archive.entries().iter().any(|entry| entry.name.starts_with(WEB_INF));
    let kind = if is_war { ArtifactKind::War } else { ArtifactKind::Jar };
    check_name(filename, kind)?;
    match kind {
        ArtifactKind::War => war(&archive, source).map(ArtifactFacts::War),
        _ => jar(&archive, source).map(ArtifactFacts::Jar),
    }
}

fn is_elf(source: &dyn Source) -> Result<bool, InspectError> {
    let mut magic = [0; 4];
    if source.len() < 4 {
        return Ok(false);
    }
    source.read_exact_at(0, &mut magic)?;
    Ok(&magic == elf::MAGIC)
}

/// Refuses a file name whose extension promises another kind. Other extensions promise nothing.
fn check_name(filename: &str, kind: ArtifactKind) -> Result<(), InspectError> {
    let extension = filename.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let promised = match extension.as_deref() {
        Some("jar") => ArtifactKind::Jar,
        Some("war") => ArtifactKind::War,
        _ => return Ok(()),
    };
    if promised == kind {
        return Ok(());
    }
    let name = quoted(filename);
    let message = match kind {
        ArtifactKind::War => format!(
            "{name} is a WAR (it has `WEB-INF/`): upload it under a name that ends in `.war`"
        ),
        ArtifactKind::Jar => format!(
            "{name} is a JAR (it has no `WEB-INF/`): upload it under a name that ends in `.jar`, \
            or upload the WAR"
        ),
        ArtifactKind::Binary => format!(
            "{name} is a native executable (ELF): upload it under a name without `.{promised}`"
        ),
    };
    Err(InspectError::invalid(Code::KindMismatch, message))
}

fn jar(archive: &Archive, source: &dyn Source) -> Result<JarFacts, InspectError> {
    let manifest = Manifest::read(archive, source)?;
    let main_class = manifest.get("Main-Class").filter(|class| !class.is_empty());
    let mut facts = JarFacts { main_class: main_class.map(str::to_owned), ..JarFacts::default() };
    if is_spring_boot(&manifest) {
        let index = manifest.get("Spring-Boot-Layers-Index").unwrap_or(LAYERS_INDEX);
        facts.spring_boot = Some(SpringBootFacts {
            version: manifest.get("Spring-Boot-Version").map(str::to_owned),
            layers_index: archive.find(index).is_some(),
        });
        let classes = manifest.get("Spring-Boot-Classes").unwrap_or(BOOT_CLASSES);
        let release = java::newest_release(archive, source, |name| name.starts_with(classes))?;
        // The loader's classes do not count: they run on older releases than the framework does.
        facts.java_release = release.or_else(|| java::manifest_release(&manifest));
    } else {
        let own = |name: &str| !name.starts_with("META-INF/versions/");
        facts.java_release = java::newest_release(archive, source, own)?;
    }
    Ok(facts)
}

fn war(archive: &Archive, source: &dyn Source) -> Result<WarFacts, InspectError> {
    let own = |name: &str| name.starts_with(servlet::CLASSES);
    Ok(WarFacts {
        java_release: java::newest_release(archive, source, own)?,
        servlet_api: servlet::api(archive, source)?,
    })
}

#[cfg(test)]
mod tests;
