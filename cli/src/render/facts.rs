// SPDX-License-Identifier: Apache-2.0

//! Names and values in two columns.

use super::Table;

/// Names and values in two columns.
#[derive(Debug, Default)]
pub(super) struct Facts {
    table: Table,
    last: &'static str,
}

impl Facts {
    /// Adds a fact. If it has the name of the last one, only its value is written, below the other.
    pub(super) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        let shown = if self.last == name { "" } else { name };
        self.last = name;
        self.table.row([shown.to_owned(), value.into()]);
    }

    /// Returns the lines.
    pub(super) fn lines(&self) -> Vec<String> {
        self.table.lines()
    }
}
