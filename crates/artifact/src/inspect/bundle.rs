// SPDX-License-Identifier: Apache-2.0

//! What a bundle is and needs.

use std::path::Path;

use slipway_proto::artifact::{BundleFacts, BundleForm, JavaFacts};

use super::WEB_INF;
use super::class_file::{Newest, is_loaded};
use super::java::Release;
use super::library::Library;
use crate::bundle::{Bundle, Files, PlacedFile, form};
use crate::invalid::{InspectError, quoted};
use crate::manifest::{self, Manifest};
use crate::source::Source;
use crate::zip::Archive;
use crate::zip::starts::Starts;

/// How many JARs are looked into. Each costs some 10 µs.
const MOST_JARS: usize = 4096;

/// Returns whether a ZIP is a bundle, and no JAR or WAR: those have their own files at fixed places.
pub(super) fn is_zip(archive: &Archive, filename: &str) -> bool {
    let is_named = filename.to_ascii_lowercase().ends_with(".zip");
    let is_java =
        |name: &str| name.eq_ignore_ascii_case(manifest::PATH) || name.starts_with(WEB_INF);
    is_named && !archive.entries().iter().any(|entry| is_java(&entry.name))
}

/// Reads what a bundle is and needs. What is compressed is unpacked in the directory `scratch`.
pub(super) fn inspect(source: &dyn Source, scratch: &Path) -> Result<BundleFacts, InspectError> {
    let bundle = Bundle::open(source, scratch)?;
    let files = bundle.files(source);
    let form = form::recognise(files)?;
    let directory = bundle.tree().directory().map(str::to_owned);
    let (java_release, java) = match form {
        BundleForm::Executables { .. } => (None, JavaFacts::default()),
        _ => java(&form, files)?,
    };
    Ok(BundleFacts { directory, form, java_release, java })
}

/// Returns what the JARs of a bundle need. Of the application's own ones every class counts, of
/// libraries a few.
fn java(form: &BundleForm, files: Files<'_>) -> Result<(Option<u16>, JavaFacts), InspectError> {
    let launch = form::launch(form, files, "/app")?.unwrap_or_default();
    let mut release = Release::default();
    let mut starts = Starts::default();
    let jars = files.tree.files().filter(|(path, _)| form::is_jar(path));
    let (own, libraries): (Vec<_>, Vec<_>) =
        jars.take(MOST_JARS).partition(|(path, _)| form::is_own(form, &launch, path));
    for (_, file) in own {
        own_jar(files, file, &mut starts, &mut release)?;
    }
    for (path, file) in libraries {
        let content = files.content(file);
        if let Some(version) = Library::of(content)?.version(&mut starts)? {
            release.library(version, &quoted(path));
        }
    }
    Ok(release.facts(&Manifest::default()))
}

/// Adds the classes of a JAR. The JVM judges one that cannot be read.
fn own_jar(
    files: Files<'_>,
    file: &PlacedFile,
    starts: &mut Starts,
    release: &mut Release,
) -> Result<(), InspectError> {
    let content = files.content(file);
    let archive = match Archive::read(&content) {
        Ok(archive) => archive,
        Err(InspectError::Invalid(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let is_wanted = |entry: &crate::Entry| is_loaded(entry.name.as_bytes());
    release.classes(&Newest::of(&archive, &content, starts, is_wanted)?);
    Ok(())
}
