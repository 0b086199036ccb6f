// SPDX-License-Identifier: Apache-2.0

//! What is wrong with settings, and which layer it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The layer that a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody chose it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// A variable of the environment, by its name.
    Variable(String),
    /// A flag, by its name without dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::File { path, line } => write!(f, "from {}:{line}", path.display()),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::Flag(name) => write!(f, "from --{name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting, by its key; or the file, where that cannot be used.
    pub setting: String,
    /// Where its value came from; `None` for a file.
    pub origin: Option<Origin>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.setting)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All that is wrong.
#[derive(Debug, Clone, Default)]
pub struct Mistakes {
    found: Vec<Mistake>,
    origins: BTreeMap<String, Origin>,
}

impl Mistakes {
    /// Adds a mistake about a setting, whose origin is looked up.
    pub fn add(&mut self, setting: &str, message: impl Into<String>) {
        let origin = self.origins.get(setting).cloned().unwrap_or(Origin::Default);
        self.push(setting, Some(origin), message);
    }

    /// Returns the mistakes in the order in which they were found.
    #[must_use]
    pub fn found(&self) -> &[Mistake] {
        &self.found
    }

    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn push(
        &mut self,
        setting: &str,
        origin: Option<Origin>,
        message: impl Into<String>,
    ) {
        self.found.push(Mistake { setting: setting.to_owned(), origin, message: message.into() });
    }

    pub(super) fn set_origins(&mut self, origins: BTreeMap<String, Origin>) {
        self.origins = origins;
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found.as_slice() {
            [only] => write!(f, "the configuration is wrong: {only}"),
            several => {
                write!(f, "the configuration has {} mistakes:", several.len())?;
                several.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}
