// SPDX-License-Identifier: Apache-2.0

//! What a benchmark found, a row for each thing measured.

/// One thing that was measured.
#[derive(Debug, Clone)]
pub struct Row {
    /// The part of the report that it belongs to.
    pub section: &'static str,
    /// What was measured.
    pub name: String,
    /// The numbers with what they count, as people read them.
    pub cells: Vec<(&'static str, String)>,
    /// What the numbers were to reach.
    pub goals: Vec<Goal>,
}

/// What a number was to reach, and whether it did.
#[derive(Debug, Clone)]
pub struct Goal {
    /// The number.
    pub what: String,
    /// What it was to be.
    pub wanted: String,
    /// What it was.
    pub seen: String,
    /// Whether that is good enough.
    pub met: bool,
}
