// SPDX-License-Identifier: Apache-2.0

//! Quantities for people, written in one way by all programs.

/// Writes a size in decimal units, as registries and disks count.
#[must_use]
pub fn size(bytes: u64) -> String {
    const SIZE_UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // A value that would be rounded up to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < SIZE_UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = SIZE_UNITS[unit];
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Writes a count with its noun, which gets an `s` unless there is one.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (46_200_000, "46.2 MB"),
            (99_949_999, "99.9 MB"),
            (99_950_000, "100 MB"),
            (999_499_999, "999 MB"),
            (999_500_000, "1.0 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn one_has_no_plural() {
        let counted = [0, 1, 2].map(|number| count(number, "layer"));
        assert_eq!(counted, ["0 layers", "1 layer", "2 layers"]);
    }
}
