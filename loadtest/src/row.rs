// SPDX-License-Identifier: Apache-2.0

//! The rows of the report, each compared with its goals.

use serde::Serialize;

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The table it belongs to.
    pub section: &'static str,
    /// The measurements.
    pub name: String,
    /// Column and value, in the order of the columns.
    pub cells: Vec<(&'static str, String)>,
    /// Its goals; there may be none.
    pub goals: Vec<Goal>,
}

/// A goal, and the measured value.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// The goal in words.
    pub what: String,
    /// The bound, with its unit.
    pub wanted: String,
    /// What was measured, with its unit.
    pub seen: String,
    /// Whether the goal is met.
    pub met: bool,
}

impl Goal {
    /// Makes a goal that is met by a number which is not greater than its bound.
    #[must_use]
    pub fn at_most(what: &str, bound: f64, seen: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            wanted: format!("<= {} {unit}", number(bound)).trim_end().to_owned(),
            seen: format!("{} {unit}", number(seen)).trim_end().to_owned(),
            met: seen <= bound,
        }
    }

    /// Makes a goal that is met by a number which is not less than its bound.
    #[must_use]
    pub fn at_least(what: &str, bound: f64, seen: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            wanted: format!(">= {} {unit}", number(bound)).trim_end().to_owned(),
            seen: format!("{} {unit}", number(seen)).trim_end().to_owned(),
            met: seen >= bound,
        }
    }

    /// Makes a goal that is met by a fact.
    #[must_use]
    pub fn fact(what: &str, seen: String, met: bool) -> Self {
        Self { what: what.to_owned(), wanted: "yes".to_owned(), seen, met }
    }
}

impl Goal {
    /// Returns `ok`, or `short` if it is missed.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        if self.met { "ok" } else { "short" }
    }
}

impl Row {
    /// Returns the last cell: `short` if a goal is missed, `ok` if none is, `-` if there is none.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match self.goals.as_slice() {
            [] => "-",
            goals => goals.iter().find(|goal| !goal.met).unwrap_or(&goals[0]).verdict(),
        }
    }
}

/// Writes a number with few digits: two decimals below 10, one below 100, none above.
#[must_use]
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 10.0 => 2,
        middle if middle < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(goals: Vec<Goal>) -> Row {
        Row { section: "s", name: "n".to_owned(), cells: Vec::new(), goals }
    }

    #[test]
    fn one_goal_that_is_not_met_makes_a_row_short() {
        let met = Goal::at_most("wall", 40.0, 40.0, "ms");
        let missed = Goal::at_most("requests", 8.0, 9.0, "");
        assert_eq!((met.met, missed.met), (true, false));
        assert_eq!((missed.wanted.as_str(), missed.seen.as_str()), ("<= 8", "9"));
        assert_eq!(row(Vec::new()).verdict(), "-");
        assert_eq!(row(vec![met.clone()]).verdict(), "ok");
        assert_eq!(row(vec![met, missed]).verdict(), "short");
    }

    #[test]
    fn a_goal_from_below_is_met_at_its_bound() {
        let goal = |seen| Goal::at_least("rate", 0.45, seen, "x");
        assert!(goal(0.45).met && !goal(0.44).met);
        assert_eq!(goal(0.44).wanted, ">= 0.45 x");
    }

    #[test]
    fn a_number_that_is_none_meets_nothing() {
        assert!(!Goal::at_most("wall", 40.0, f64::NAN, "ms").met);
        assert!(!Goal::at_least("rate", 0.5, f64::NAN, "x").met);
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0.256, 8.0, 40.04, 99.9, 312.4].map(number).to_vec();
        assert_eq!(shown, ["0.26", "8", "40", "99.9", "312"]);
    }
}
