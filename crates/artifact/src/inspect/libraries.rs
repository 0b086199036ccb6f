// SPDX-License-Identifier: Apache-2.0

//! What all libraries of an artifact tell together.

use std::io;

use super::class_file::Version;
use super::library::{Depth, Library};
use crate::invalid::quoted;
use crate::source::Source;
use crate::zip::starts::Starts;
use crate::zip::{Archive, Entry};

/// How much of a deflated library is inflated for its first classes.
const START: Depth = Depth { bytes: 64 << 10, classes: 8 };

/// How much of all deflated libraries is inflated, in bytes: some 60 ms of a processor.
pub(super) const MOST_INFLATED: usize = 32 << 20;

/// How many libraries are looked into. Each costs some 10 µs.
const MOST_LIBRARIES: usize = 4096;

/// What the libraries told.
#[derive(Debug, Clone, Default)]
pub(super) struct Libraries {
    /// The newest version that one of them needs, and its quoted name.
    pub(super) newest: Option<(Version, String)>,
    /// The quoted names of the first with an initializer for `javax.servlet` and for
    /// `jakarta.servlet`.
    pub(super) initializers: [Option<String>; 2],
}

impl Libraries {
    /// Looks into the JARs for whose names `is_library` is true.
    pub(super) fn look(
        archive: &Archive,
        source: &dyn Source,
        starts: &mut Starts,
        is_library: impl Fn(&str) -> bool,
    ) -> io::Result<Self> {
        let mut told = Self::default();
        let mut left = MOST_INFLATED;
        for entry in of(archive, is_library).take(MOST_LIBRARIES) {
            let library = Library::open(archive, source, entry, START, &mut left)?;
            for (known, has) in told.initializers.iter_mut().zip(library.initializers()) {
                if has && known.is_none() {
                    *known = Some(quoted(&entry.name));
                }
            }
            if let Some(version) = library.version(starts)?
                && told.newest.as_ref().is_none_or(|(newest, _)| *newest < version)
            {
                told.newest = Some((version, quoted(&entry.name)));
            }
        }
        Ok(told)
    }
}

/// Returns the JARs for whose names `is_library` is true.
pub(super) fn of(
    archive: &Archive,
    is_library: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &Entry> {
    let is_jar = |name: &str| {
        name.len() >= 4 && name.as_bytes()[name.len() - 4..].eq_ignore_ascii_case(b".jar")
    };
    archive.entries().iter().filter(move |entry| is_jar(&entry.name) && is_library(&entry.name))
}
