// SPDX-License-Identifier: Apache-2.0

//! Writes the results: Markdown for people, JSON with every sample for programs.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::row::{Goal, Row};
use crate::samples::Sample;

/// A run of the benchmark.
#[derive(Debug, Clone)]
pub struct Report {
    /// The day, as 2026-11-22.
    pub date: String,
    /// The name of its files: the day, and the part of a whole run.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// The seed of the inputs.
    pub seed: u64,
    /// The machine, in one line.
    pub machine: String,
    /// How much processor time the machine's host gave to others, in one line.
    pub stolen: String,
    /// The versions of the programs that took part, in one line.
    pub versions: String,
    /// What was measured, with its goals.
    pub rows: Vec<Row>,
    /// Every measurement of images.
    pub samples: Vec<Sample>,
    /// How it was measured, as Markdown.
    pub method: String,
    /// The drawing, if there is one.
    pub svg: Option<String>,
}

impl Report {
    /// Returns the last line: how many goals are met.
    #[must_use]
    pub fn verdict(&self) -> String {
        let goals = || self.rows.iter().flat_map(|row| &row.goals);
        let met = goals().filter(|goal| goal.met).count();
        format!("bench: {met} of {} goals met", goals().count())
    }

    /// Writes Markdown, JSON and the drawing into a directory, and returns the path of the first.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(directory)?;
        if let Some(svg) = &self.svg {
            std::fs::write(directory.join(format!("{}.svg", self.name)), svg)?;
        }
        let raw = json!({
            "date": self.date, "command": self.command, "seed": self.seed,
            "machine": self.machine, "stolen": self.stolen, "versions": self.versions,
            "rows": self.rows, "samples": self.samples,
        });
        std::fs::write(directory.join(format!("{}.json", self.name)), format!("{raw:#}\n"))?;
        let path = directory.join(format!("{}.md", self.name));
        std::fs::write(&path, self.markdown())?;
        Ok(path)
    }

    /// Returns the report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Self { date, name, command, seed, machine, stolen, versions, .. } = self;
        let mut text = format!(
            "# Benchmark of {date}\n\n- machine: {machine}\n- {stolen}\n- with: {versions}\n\
             - command: `{command}`\n- seed: {seed}\n"
        );
        if self.svg.is_some() {
            let _ = write!(text, "\n![wall-clock time of a build]({name}.svg)\n");
        }
        let mut sections: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !sections.contains(&row.section) {
                sections.push(row.section);
            }
        }
        for section in sections {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.section == section).collect();
            let _ = write!(text, "\n## {section}\n\n{}", table(&rows));
        }
        let _ = write!(text, "\n## Goals\n\n{}", self.goals());
        if !self.method.is_empty() {
            let _ = write!(text, "\n## How\n\n{}", self.method);
        }
        let _ = write!(text, "\n{}\n", self.verdict());
        text
    }

    /// Lists every goal with the wanted and the measured value.
    fn goals(&self) -> String {
        let mut text = "| row | goal | wanted | seen | |\n|---|---|---:|---:|---|\n".to_owned();
        for row in &self.rows {
            for goal in &row.goals {
                let Goal { what, wanted, .. } = goal;
                // The message of a program that failed may have many lines, and bars.
                let seen = goal.seen.split_whitespace().collect::<Vec<_>>().join(" ");
                let seen = seen.replace('|', "\\|");
                let verdict = goal.verdict();
                let place = format!("{}: {}", row.section, row.name);
                let _ = writeln!(text, "| {place} | {what} | {wanted} | {seen} | {verdict} |");
            }
        }
        text
    }
}

/// Writes rows as a table: the columns of all of them, in the order in which they first appear.
#[must_use]
pub fn table(rows: &[&Row]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (column, _) in rows.iter().flat_map(|row| &row.cells) {
        if !columns.contains(column) {
            columns.push(column);
        }
    }
    let mut text = format!("| | {} | goals |\n|---|", columns.join(" | "));
    text.push_str(&"---:|".repeat(columns.len()));
    text.push_str("---|\n");
    for row in rows {
        let _ = write!(text, "| {} |", row.name);
        for column in &columns {
            let cell = row.cells.iter().find(|(name, _)| name == column);
            let _ = write!(text, " {} |", cell.map_or("", |(_, value)| value.as_str()));
        }
        let _ = writeln!(text, " {} |", row.verdict());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row =
            |section, name: &str, cells, goals| Row { section, name: name.into(), cells, goals };
        Report {
            date: "2026-11-22".into(),
            name: "2026-11-22-image".into(),
            command: "slipway-bench image".into(),
            seed: 7,
            machine: "a machine".into(),
            stolen: "its host took: nothing".into(),
            versions: "curl 8".into(),
            rows: vec![
                row("jar", "floor", vec![("ms", "250".into())], Vec::new()),
                row(
                    "jar",
                    "queue",
                    vec![("ms", "300".into()), ("requests", "9".into())],
                    vec![
                        Goal::at_most("wall", 312.0, 300.0, "ms"),
                        Goal::at_most("requests", 8.0, 9.0, ""),
                    ],
                ),
                row("war", "queue", Vec::new(), vec![Goal::fact("equal", "yes".into(), true)]),
            ],
            samples: Vec::new(),
            method: "With care.\n".into(),
            svg: Some("<svg/>".into()),
        }
    }

    #[test]
    fn rows_are_in_tables_by_section_and_a_verdict_is_the_last_line() {
        let text = report().markdown();
        for line in [
            "| | ms | requests | goals |",
            "|---|---:|---:|---|",
            "| floor | 250 |  | - |",
            "| queue | 300 | 9 | short |",
            "| queue | ok |",
            "| jar: queue | wall | <= 312 ms | 300 ms | ok |",
            "| jar: queue | requests | <= 8 | 9 | short |",
            "With care.",
            "![wall-clock time of a build](2026-11-22-image.svg)",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
        assert_eq!(text.lines().last(), Some("bench: 2 of 3 goals met"));
    }

    #[test]
    fn all_files_are_in_one_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = report().write(directory.path()).expect("it is written");
        assert_eq!(path, directory.path().join("2026-11-22-image.md"));
        let read =
            |name| std::fs::read_to_string(directory.path().join(name)).expect("it is there");
        assert_eq!(read("2026-11-22-image.svg"), "<svg/>");
        let raw: serde_json::Value =
            serde_json::from_str(&read("2026-11-22-image.json")).expect("JSON");
        assert_eq!(raw["rows"][1]["goals"][1]["met"], false);
    }
}
