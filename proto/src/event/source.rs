// SPDX-License-Identifier: Apache-2.0

//! The CloudEvents member `source`: the project an event comes from, written `/projects/<project>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ProjectName;

/// What stands before the project's name.
const PATH: &str = "/projects/";

/// The project that an event is about, as a URI reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// The project.
    pub project: ProjectName,
}

/// A text that is not the source of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a project's source of events: it is written /projects/<project>")]
pub struct ParseEventSourceError(String);

impl FromStr for EventSource {
    type Err = ParseEventSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let project = text.strip_prefix(PATH).and_then(|name| name.parse().ok());
        let malformed = || ParseEventSourceError(text.chars().take(100).collect());
        Ok(Self { project: project.ok_or_else(malformed)? })
    }
}

impl fmt::Display for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PATH}{}", self.project)
    }
}

impl Serialize for EventSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_written_and_read_as_the_path_of_its_project() {
        let source = EventSource { project: "team".parse().expect("a name") };
        let text = serde_json::to_string(&source).expect("it is JSON");
        assert_eq!(text, r#""/projects/team""#);
        assert_eq!(serde_json::from_str::<EventSource>(&text).expect("it is a source"), source);
    }

    #[test]
    fn other_texts_are_no_source() {
        for text in ["", "team", "/projects/", "/projects/Team", "/projects/a/b", "/builds/team"] {
            assert!(text.parse::<EventSource>().is_err(), "{text}");
        }
    }
}
