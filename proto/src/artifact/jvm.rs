// SPDX-License-Identifier: Apache-2.0

//! What was read from a JAR or a WAR.
//!
//! Records of uploads outlive versions of Slipway: every member that was added later has a default,
//! which says that nothing was found.

use serde::{Deserialize, Serialize};

/// Facts of a JAR.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JarFacts {
    /// The oldest Java release that runs it, as far as its classes, launcher, libraries and
    /// framework tell.
    pub java_release: Option<u16>,
    /// What else it needs of Java.
    #[serde(default, skip_serializing_if = "JavaFacts::is_empty")]
    pub java: JavaFacts,
    /// `Main-Class` of the manifest.
    pub main_class: Option<String>,
    /// Set for a Spring Boot executable archive.
    pub spring_boot: Option<SpringBootFacts>,
    /// Why it may not start, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What an archive needs of Java beside the release, and what told it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JavaFacts {
    /// What needs the release, as in "`Main.class`" or "Spring Boot 3.2.5".
    #[serde(default)]
    pub told_by: Option<String>,
    /// The release without the libraries, whose newest classes may never be loaded. `None` if they
    /// do not matter.
    #[serde(default)]
    pub own_release: Option<u16>,
    /// The releases whose preview features its classes use. Such a class runs on exactly that
    /// release (JVM Specification, 4.1).
    #[serde(default)]
    pub previews: Vec<u16>,
}

impl JavaFacts {
    /// Returns whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Facts of a Spring Boot executable archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpringBootFacts {
    /// `Spring-Boot-Version` of the manifest.
    pub version: Option<String>,
    /// Whether the archive brings a `layers.idx`.
    pub layers_index: bool,
}

/// Facts of a WAR.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarFacts {
    /// The oldest Java release that runs it in a server, as far as it tells.
    pub java_release: Option<u16>,
    /// What else it needs of Java.
    #[serde(default, skip_serializing_if = "JavaFacts::is_empty")]
    pub java: JavaFacts,
    /// The servlet API it was written for, if that is known.
    pub servlet_api: Option<ServletApi>,
    /// What told the servlet API.
    #[serde(default, skip_serializing_if = "ServletFacts::is_empty")]
    pub servlet: ServletFacts,
    /// Set if it also starts by itself, with `java -jar`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<ExecutableFacts>,
    /// Why it cannot be unpacked. Only a WAR that starts by itself is taken nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_unpackable: Option<String>,
    /// What may not work in a server, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl WarFacts {
    /// Returns the facts of the WAR as a JAR, if it starts by itself.
    #[must_use]
    pub fn as_jar(&self) -> Option<JarFacts> {
        let executable = self.executable.clone()?;
        Some(JarFacts {
            java_release: executable.java_release,
            java: executable.java,
            main_class: Some(executable.main_class),
            // Its layers are not used: it is laid down whole.
            spring_boot: None,
            warnings: executable.warnings,
        })
    }
}

/// Facts of a WAR that starts by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutableFacts {
    /// `Main-Class` of the manifest.
    pub main_class: String,
    /// The oldest Java release that starts it, as far as it tells.
    pub java_release: Option<u16>,
    /// What else it needs of Java to start.
    pub java: JavaFacts,
    /// Why it may not start, one sentence each.
    pub warnings: Vec<String>,
}

/// The two incompatible package names of the servlet API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServletApi {
    /// `javax.servlet`: Tomcat 9 and older.
    Javax,
    /// `jakarta.servlet`, up to Servlet 6.0: Tomcat 10.
    Jakarta,
    /// `jakarta.servlet` 6.1 and newer: Tomcat 11.
    Jakarta61,
}

impl ServletApi {
    /// Returns the package.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Javax => "javax.servlet",
            Self::Jakarta | Self::Jakarta61 => "jakarta.servlet",
        }
    }
}

/// What told the servlet API of a WAR, and how sure it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServletFacts {
    /// What told it, as in "`WEB-INF/classes/Shop.class`" or "Spring Boot 4.0.0".
    #[serde(default)]
    pub told_by: Option<String>,
    /// Whether the WAR cannot run with the other package. A library may name a package that nobody
    /// uses, and a descriptor may be older than its container.
    #[serde(default)]
    pub is_package_certain: bool,
    /// Whether it cannot run with an older version of the API.
    #[serde(default)]
    pub is_version_certain: bool,
}

impl ServletFacts {
    /// Returns whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::ArtifactFacts;

    /// As the versions before wrote them: an upload is not forgotten by an upgrade.
    #[test]
    fn facts_that_an_older_version_stored_are_read() {
        for (text, release) in [
            (r#"{"kind":"jar","java_release":17,"main_class":"M","spring_boot":null}"#, Some(17)),
            (
                r#"{"kind":"jar","java_release":null,"main_class":null,
                    "spring_boot":{"version":"3.3.1","layers_index":true}}"#,
                None,
            ),
            (r#"{"kind":"war","java_release":11,"servlet_api":"jakarta61"}"#, Some(11)),
        ] {
            let facts: ArtifactFacts = serde_json::from_str(text).expect("it is read");
            assert_eq!(facts.java_release(), release, "{text}");
            let written: ArtifactFacts =
                serde_json::from_value(serde_json::to_value(&facts).expect("JSON")).expect("read");
            assert_eq!(written, facts);
        }
    }
}
