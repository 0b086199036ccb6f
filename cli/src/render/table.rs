// SPDX-License-Identifier: Apache-2.0

//! Tables with aligned columns.

/// Between two columns.
const GAP: &str = "  ";

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table with a row of headings.
    #[must_use]
    pub fn with_headings(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Returns the lines. The last column is not padded, so that no line ends in spaces.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}", width = *width))
                .collect();
            cells.join(GAP).trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::with_headings(&["A", "LONG", "C"]);
        table.row(["größer".to_owned(), "x".to_owned(), "yy".to_owned()]);
        table.row(["b".to_owned(), String::new(), String::new()]);
        assert_eq!(table.lines(), ["A       LONG  C", "größer  x     yy", "b"]);
    }

    #[test]
    fn a_table_of_nothing_has_no_lines() {
        assert!(Table::default().lines().is_empty());
    }
}
