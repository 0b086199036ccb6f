// SPDX-License-Identifier: Apache-2.0

//! Whether an environment's Java runs an artifact, and what is said about it.
//!
//! What the application itself needs is certain, and is refused where it is missing. The newest
//! classes of a library may never be loaded: `auto` provides for them, and a named environment that
//! is too old for them gets a warning.

use crate::ArtifactFacts;
use crate::artifact::JavaFacts;
use crate::request::Note;

use super::{Environment, LAUNCH};

/// The Java release assumed for an archive in which nothing tells it.
pub(super) const DEFAULT_RELEASE: u16 = 17;

const PREVIEW: &str = "--enable-preview";

/// Read by `java` itself since release 9 (JDK tool specifications, "java", `JDK_JAVA_OPTIONS`).
const OPTIONS_VARIABLE: &str = "JDK_JAVA_OPTIONS";

/// What an artifact needs of Java.
pub(super) struct Needs<'a> {
    /// The release, as far as anything tells it.
    pub(super) release: Option<u16>,
    /// The release that it certainly needs.
    certain: Option<u16>,
    /// What told the release, for people.
    told_by: &'a str,
    previews: &'a [u16],
}

impl<'a> Needs<'a> {
    /// Returns the needs of an artifact. An executable has none.
    pub(super) fn of(facts: &'a ArtifactFacts) -> Option<Self> {
        let java: &JavaFacts = facts.java()?;
        let release = facts.java_release();
        Some(Self {
            release,
            certain: java.own_release.or(release),
            told_by: java.told_by.as_deref().unwrap_or("a class of it"),
            previews: &java.previews,
        })
    }

    /// Says why a runtime of a release cannot run the artifact.
    pub(super) fn refusal(&self, runs: u16) -> Option<String> {
        if let Some(refusal) = self.contradiction() {
            return Some(refusal);
        }
        if let Some(preview) = self.previews.first().filter(|preview| **preview != runs) {
            return Some(format!(
                "{} uses preview features of Java {preview} and runs on no other release, and it \
                runs Java {runs}: choose one with Java {preview}, or compile without {PREVIEW}",
                self.told_by
            ));
        }
        let needed = self.certain.filter(|needed| *needed > runs)?;
        Some(format!(
            "{} needs Java {needed}, and it runs Java {runs}: choose a newer one, or compile with \
            --release {runs}",
            self.by_certain()
        ))
    }

    /// Says why no release of Java can run the artifact.
    pub(super) fn contradiction(&self) -> Option<String> {
        let (preview, others) = self.previews.split_first()?;
        let newer = self.certain.filter(|needed| needed > preview);
        let other = others.first().copied().or(newer)?;
        Some(format!(
            "its classes use preview features of Java {preview}, which run on no other release, \
            and others need Java {other}: compile all of them with one JDK"
        ))
    }

    /// Says why none of the environments runs the artifact; `newest` is the newest of their
    /// releases.
    pub(super) fn refused_by_all(&self, newest: u16) -> String {
        if let Some(refusal) = self.contradiction() {
            return refusal;
        }
        if let Some(preview) = self.previews.first() {
            return format!(
                "{} uses preview features of Java {preview} and runs on no other release, and \
                none has Java {preview}: compile without {PREVIEW}, or give a `base` with that \
                release",
                self.told_by
            );
        }
        format!(
            "{} needs Java {}, and the newest has Java {newest}: compile with --release {newest}, \
            or give a `base` that runs it",
            self.by_certain(),
            self.certain.unwrap_or_default()
        )
    }

    /// Returns what needs the certain release. What told a newer one is a library.
    fn by_certain(&self) -> &str {
        if self.certain == self.release { self.told_by } else { "the application itself" }
    }

    /// Returns what is to be said about the artifact on a runtime of a release, or on one that is
    /// not known.
    pub(super) fn notes(&self, runs: Option<u16>, is_chosen: bool) -> Vec<Note> {
        let mut notes = Vec::new();
        match (self.release, runs) {
            (Some(release), _) if self.previews.is_empty() => {
                notes.push(Note::found(format!("Java {release} is needed by {}", self.told_by)));
            }
            (None, Some(runs)) if is_chosen => notes.push(Note::found(format!(
                "nothing tells which Java release is needed: Java {runs} is assumed"
            ))),
            _ => {}
        }
        if let Some(preview) = self.previews.first() {
            notes.push(Note::found(format!(
                "{} uses preview features of Java {preview}, so it is started with {PREVIEW}",
                self.told_by
            )));
            if runs.is_none() {
                let text = format!("the base must have Java {preview} and no other release");
                notes.push(Note::warning(text));
            }
        }
        if let (Some(release), Some(runs)) = (self.release, runs)
            && release > runs
        {
            notes.push(Note::warning(format!(
                "{} needs Java {release} and the image has Java {runs}: it fails if its classes \
                are loaded",
                self.told_by
            )));
        }
        notes
    }

    /// Makes an environment start Java so that it takes the classes.
    pub(super) fn prepare(&self, environment: &mut Environment) {
        if self.previews.is_empty() {
            return;
        }
        let launch = |argument: &String| argument == LAUNCH;
        let start = [&mut environment.entrypoint, &mut environment.command];
        for command in start.into_iter().flatten() {
            if let Some(at) = command.iter().position(launch) {
                command.insert(at, PREVIEW.to_owned());
                return;
            }
        }
        // A server's start script has no place for an option of the JVM.
        let options = environment.env.entry(OPTIONS_VARIABLE.to_owned()).or_default();
        *options = format!("{PREVIEW} {options}").trim_end().to_owned();
    }
}
