// SPDX-License-Identifier: Apache-2.0

//! A page of metrics in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;

/// A page that is being written: a family, then its samples.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// The media type of a page.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family of samples; `kind` is `counter` or `gauge`.
    pub fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        self.line(&format!("# HELP {name} {help}"));
        self.line(&format!("# TYPE {name} {kind}"));
    }

    /// Writes a sample with one label, whose value is a word of ours and needs no escapes.
    pub fn sample(&mut self, label: &str, name: &str, value: u64) {
        self.line(&format!("{}{{{label}=\"{name}\"}} {value}", self.family));
    }

    /// Writes the only sample of a family.
    pub fn plain(&mut self, value: u64) {
        self.line(&format!("{} {value}", self.family));
    }

    /// Returns the page.
    #[must_use]
    pub fn text(self) -> String {
        self.text
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("writing to a string does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.family("slipway_builds_total", "counter", "Builds by outcome.");
        page.sample("outcome", "succeeded", 3);
        page.family("slipway_slots", "gauge", "Builds that run at once.");
        page.plain(4);
        insta::assert_snapshot!(page.text());
    }
}
