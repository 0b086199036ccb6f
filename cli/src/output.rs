// SPDX-License-Identifier: Apache-2.0

//! Where a command writes: results to stdout, everything else to stderr.
//!
//! Not `println!`, which panics when the reader of a pipe has gone (`slipway list | head`), and
//! would pass control characters of a log to the terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use slipway_fault::chain;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tables and sentences, for people.
    #[default]
    Text,
    /// Only JSON on stdout.
    Json,
}

/// The two streams of the process.
#[derive(Debug)]
pub struct Output {
    format: Format,
    result_on_terminal: bool,
    notes_on_terminal: bool,
    /// Whether results go to stderr, because stdout takes something else.
    results_on_stderr: bool,
    /// Whether something was written to stdout.
    used: AtomicBool,
    closed: AtomicBool,
    failed: AtomicBool,
}

impl Output {
    /// Makes the output of this process.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            result_on_terminal: std::io::stdout().is_terminal(),
            notes_on_terminal: std::io::stderr().is_terminal(),
            results_on_stderr: false,
            used: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// Writes results to stderr from now on: stdout takes something else.
    #[must_use]
    pub fn with_results_on_stderr(self) -> Self {
        Self { results_on_stderr: true, result_on_terminal: self.notes_on_terminal, ..self }
    }

    /// Returns whether a result was written.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether a result could not be written, as to a full disk. A reader that closed its
    /// pipe has seen enough, which is no failure.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns whether results are JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Returns whether a person sees stderr as it is written.
    #[must_use]
    pub fn notes_on_terminal(&self) -> bool {
        self.notes_on_terminal
    }

    /// Returns whether nobody reads stdout any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes a line of the result to stdout.
    pub fn result(&self, line: &str) {
        if self.is_closed() {
            return;
        }
        let line = if self.result_on_terminal { printable(line) } else { line.to_owned() };
        if self.results_on_stderr {
            return note(&line);
        }
        self.used.store(true, Ordering::Relaxed);
        let mut stdout = std::io::stdout().lock();
        let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) else { return };
        self.closed.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            self.failed.store(true, Ordering::Relaxed);
            self.note(&format!("error: cannot write to standard output: {}", chain(&error)));
        }
    }

    /// Writes a document to stdout: indented for a person, on one line for a program.
    pub fn document<T: Serialize>(&self, document: &T) {
        let text = if self.result_on_terminal {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        self.result(&text.expect("documents of the API have only texts as keys"));
    }

    /// Writes a document to stdout on one line.
    pub fn json_line<T: Serialize>(&self, document: &T) {
        let text = serde_json::to_string(document);
        self.result(&text.expect("documents of the API have only texts as keys"));
    }

    /// Writes a line of a log: to stdout for people, to stderr for programs.
    pub fn log(&self, line: &str) {
        match self.format {
            Format::Text => self.result(line),
            Format::Json => self.note(line),
        }
    }

    /// Writes a line about the progress to stderr.
    pub fn note(&self, line: &str) {
        note(&if self.notes_on_terminal { printable(line) } else { line.to_owned() });
    }
}

/// Writes a line to stderr; `eprintln!` would panic when that is closed.
pub(crate) fn note(line: &str) {
    // There is nobody left to report it to.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Makes control characters visible instead of effective: a log may hold text from an artifact.
fn printable(text: &str) -> String {
    let effective = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if effective(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\tc\nd\r"), "a\u{fffd}[31mb\tc\nd\u{fffd}");
    }
}
