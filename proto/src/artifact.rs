// SPDX-License-Identifier: Apache-2.0

//! What an uploaded artifact is: its kind, and what it needs of a base image.

mod bundle;
mod jvm;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::platform::{Architecture, Platform, Variant};
pub use bundle::{BUNDLE_EXTENSIONS, BundleExecutable, BundleFacts, BundleForm, bundle_name};
pub use jvm::{
    ExecutableFacts, JarFacts, JavaFacts, ServletApi, ServletFacts, SpringBootFacts, WarFacts,
};

/// The four kinds of artifact that Slipway builds images from.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A Java archive.
    Jar,
    /// A Java web archive: a ZIP with `WEB-INF/`.
    War,
    /// A native ELF executable.
    Binary,
    /// A directory with everything that a program needs, in a tar archive or a ZIP.
    Bundle,
}

impl ArtifactKind {
    /// Returns the name used in documents and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jar => "jar",
            Self::War => "war",
            Self::Binary => "binary",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not an artifact kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an artifact kind: use jar, war, binary or bundle")]
pub struct ParseKindError(String);

impl FromStr for ArtifactKind {
    type Err = ParseKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "jar" => Ok(Self::Jar),
            "war" => Ok(Self::War),
            "binary" => Ok(Self::Binary),
            "bundle" => Ok(Self::Bundle),
            other => Err(ParseKindError(other.chars().take(100).collect())),
        }
    }
}

/// What was read from an artifact's bytes when it was uploaded. The environment `auto` and the
/// checks of a submission depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ArtifactFacts {
    /// Facts of a JAR.
    Jar(JarFacts),
    /// Facts of a WAR.
    War(WarFacts),
    /// Facts of an ELF executable.
    Binary(ElfFacts),
    /// Facts of a bundle.
    Bundle(BundleFacts),
}

impl ArtifactFacts {
    /// Returns the artifact's kind.
    #[must_use]
    pub fn kind(&self) -> ArtifactKind {
        match self {
            Self::Jar(_) => ArtifactKind::Jar,
            Self::War(_) => ArtifactKind::War,
            Self::Binary(_) => ArtifactKind::Binary,
            Self::Bundle(_) => ArtifactKind::Bundle,
        }
    }

    /// Returns the Java release that the artifact needs, where it is known.
    #[must_use]
    pub fn java_release(&self) -> Option<u16> {
        match self {
            Self::Jar(jar) => jar.java_release,
            Self::War(war) => war.java_release,
            Self::Binary(_) => None,
            Self::Bundle(bundle) => bundle.java_release,
        }
    }

    /// Returns what the executable needs that is started, if it is one that is started.
    #[must_use]
    pub fn executable(&self) -> Option<&ElfFacts> {
        match self {
            Self::Binary(elf) => Some(elf),
            Self::Bundle(bundle) => bundle.executable().map(|executable| &executable.facts),
            Self::Jar(_) | Self::War(_) => None,
        }
    }

    /// Returns the facts of what is started, where the artifact has several programs: the name of the
    /// file, or the entrypoint of a request, may say which one.
    #[must_use]
    pub fn narrowed(&self, filename: &str, entrypoint: &[String]) -> Cow<'_, Self> {
        match self {
            Self::Bundle(bundle) => Cow::Owned(Self::Bundle(bundle.narrowed(filename, entrypoint))),
            _ => Cow::Borrowed(self),
        }
    }

    /// Returns what else the artifact needs of Java.
    #[must_use]
    pub fn java(&self) -> Option<&JavaFacts> {
        match self {
            Self::Jar(jar) => Some(&jar.java),
            Self::War(war) => Some(&war.java),
            Self::Bundle(bundle) => bundle.runs_on_java().then_some(&bundle.java),
            Self::Binary(_) => None,
        }
    }

    /// Returns the facts of what an artifact is under a file name: a WAR that starts by itself is a
    /// JAR under a name that ends in `.jar`. Other extensions than `.jar` and `.war` promise
    /// nothing.
    ///
    /// # Errors
    ///
    /// When the extension promises a kind that the bytes are not.
    pub fn named(&self, filename: &str) -> Result<Cow<'_, Self>, KindMismatch> {
        let extension =
            filename.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let promised = match extension.as_deref() {
            Some("jar") => ArtifactKind::Jar,
            Some("war") => ArtifactKind::War,
            _ => return Ok(Cow::Borrowed(self)),
        };
        if promised == self.kind() {
            return Ok(Cow::Borrowed(self));
        }
        let as_jar = match self {
            Self::War(war) => war.as_jar(),
            _ => None,
        };
        let mismatch = KindMismatch { filename: filename.to_owned(), promised, kind: self.kind() };
        as_jar.map(|jar| Cow::Owned(Self::Jar(jar))).ok_or(mismatch)
    }
}

/// A file name whose extension promises another kind than the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindMismatch {
    filename: String,
    promised: ArtifactKind,
    kind: ArtifactKind,
}

impl std::error::Error for KindMismatch {}

impl fmt::Display for KindMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a person wrote may hold what disturbs a terminal.
        let shown: String = self.filename.chars().take(120).flat_map(char::escape_debug).collect();
        match self.kind {
            ArtifactKind::War => write!(
                f,
                "`{shown}` is a WAR (it has `WEB-INF/`, and its manifest names no Main-Class that \
                would start it): give it a name that ends in `.war`"
            ),
            ArtifactKind::Jar => write!(
                f,
                "`{shown}` is a JAR (it has no `WEB-INF/`): give it a name that ends in `.jar`, \
                or upload the WAR"
            ),
            ArtifactKind::Bundle => write!(
                f,
                "`{shown}` is a tar archive: give it a name that ends in `.tar` or `.tar.gz`"
            ),
            ArtifactKind::Binary => write!(
                f,
                "`{shown}` is a native executable (ELF): give it a name without `.{}`",
                self.promised
            ),
        }
    }
}

/// Facts of an ELF executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElfFacts {
    /// The processor it runs on.
    pub architecture: Architecture,
    /// The variant of the processor that it needs, where it tells (32-bit ARM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The program interpreter (dynamic linker) it asks for; none when it is static.
    pub interpreter: Option<String>,
    /// The shared libraries that it names (`DT_NEEDED`), in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<String>,
    /// The versions that it needs of them (`DT_VERNEED`), as in `GLIBC_2.34`: of each series the
    /// newest, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// Where it looks for libraries before the system's directories (`DT_RUNPATH`, `DT_RPATH`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_path: Option<String>,
    /// The level of x86-64 that it needs, from 2 to 4, where it was marked with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x86_64_level: Option<u8>,
    /// The oldest Linux that it runs on, as in `6.1.0`, where that is newer than any system still
    /// in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<String>,
}

/// Divides the name of a library's version into its series and numbers: `GLIBC_2.34` into `GLIBC`
/// and 2, 34. `None` for a version without numbers, as `GLIBC_PRIVATE`.
#[must_use]
pub fn version_series(name: &str) -> Option<(&str, Vec<u32>)> {
    let (series, version) = name.rsplit_once('_')?;
    let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    Some((series, numbers.ok()?))
}

impl ElfFacts {
    /// Describes an executable that needs nothing but a processor and perhaps an interpreter.
    #[must_use]
    pub fn new(architecture: Architecture, interpreter: Option<&str>) -> Self {
        Self {
            architecture,
            variant: None,
            interpreter: interpreter.map(str::to_owned),
            libraries: Vec::new(),
            versions: Vec::new(),
            search_path: None,
            x86_64_level: None,
            linux: None,
        }
    }

    /// Returns the platform it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform { architecture: self.architecture, variant: self.variant }
    }
}
