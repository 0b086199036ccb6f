// SPDX-License-Identifier: Apache-2.0

//! Draws the comparison as horizontal bars, in groups, for light and dark backgrounds.

use std::fmt::Write as _;

/// A bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Its label.
    pub name: String,
    /// Its length in milliseconds.
    pub milliseconds: f64,
    /// Its fill.
    pub kind: Kind,
}

/// The kind of program that a bar belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The floor.
    Floor,
    /// Slipway.
    Own,
    /// Another program, measured in the same run.
    Peer,
    /// Another program, measured on another day and machine.
    Constant,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Own => "own",
            Self::Peer => "peer",
            Self::Constant => "constant",
        }
    }
}

/// A group of bars to compare.
#[derive(Debug, Clone)]
pub struct Group {
    /// The title of the group.
    pub title: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

const WIDTH: f64 = 860.0;
const LABELS: f64 = 210.0;
/// Room for the number after the longest bar.
const NUMBERS: f64 = 90.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const TITLE: f64 = 34.0;
const HEAD: f64 = 30.0;
const FOOT: f64 = 46.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}\
.note{font-size:11px;fill:#59636e}.floor{fill:#8c959f}.own{fill:#0969da}.peer{fill:#bf8700}\
.constant{fill:url(#hatch);stroke:#bf8700}.line{stroke:#bf8700}.axis{stroke:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}.floor{fill:#6e7681}\
.own{fill:#4493f8}.peer{fill:#d29922}.constant{stroke:#d29922}.line{stroke:#d29922}}";

/// Draws groups of bars on one scale, which ends at `longest` milliseconds. A longer bar is cut
/// there, and its number says how long it is.
#[must_use]
pub fn draw(title: &str, note: &str, groups: &[Group], longest: f64) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD + FOOT + TITLE * float(groups.len()) + STEP * float(bars);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<defs><pattern id=\"hatch\" width=\"6\" height=\"6\" \
         patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><line class=\"line\" \
         x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke-width=\"2\"/></pattern></defs>\n\
         <text class=\"title\" x=\"8\" y=\"20\">{}</text>\n",
        escape(title),
        title = escape(title),
    );
    let scale = (WIDTH - LABELS - NUMBERS) / longest.max(1.0);
    let mut y = HEAD;
    for group in groups {
        let _ = writeln!(
            svg,
            "<text class=\"title\" x=\"8\" y=\"{:.0}\">{}</text>",
            y + TITLE - 12.0,
            escape(&group.title)
        );
        y += TITLE;
        for bar in &group.bars {
            draw_bar(&mut svg, bar, y, scale, longest);
            y += STEP;
        }
    }
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LABELS}\" y1=\"{HEAD}\" x2=\"{LABELS}\" y2=\"{y:.0}\"/>"
    );
    for (line, text) in note.lines().enumerate() {
        let at = y + 20.0 + 15.0 * float(line);
        let _ = writeln!(svg, "<text class=\"note\" x=\"8\" y=\"{at:.0}\">{}</text>", escape(text));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bar(svg: &mut String, bar: &Bar, y: f64, scale: f64, longest: f64) {
    let shown = bar.milliseconds.min(longest);
    let (width, middle) = ((shown * scale).max(1.0), y + BAR - 4.0);
    let cut = if bar.milliseconds > longest { "\u{bb} " } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{}\" x=\"{LABELS}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\"/>\
         <text x=\"{:.1}\" y=\"{middle:.0}\">{cut}{:.0} ms</text>",
        LABELS - 8.0,
        escape(&bar.name),
        bar.kind.class(),
        LABELS + width + 6.0,
        bar.milliseconds,
    );
}

fn float(count: usize) -> f64 {
    super::samples::float(u64::try_from(count).expect("a count fits"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing() -> String {
        let bar = |name: &str, milliseconds, kind| Bar { name: name.into(), milliseconds, kind };
        let bars = vec![
            bar("floor <curl>", 250.0, Kind::Floor),
            bar("Slipway", 300.0, Kind::Own),
            bar("Jib & co", 2672.0, Kind::Constant),
        ];
        let group = Group { title: "new".into(), bars };
        draw("wall-clock time", "one\ntwo", &[group.clone(), group], 1500.0)
    }

    /// Checks that elements are closed in order, and returns those that are open at the end.
    fn open_at_the_end(svg: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("every tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else if !tag.ends_with('/') {
                let name = tag.split_whitespace().next().expect("a tag has a name");
                open.push(name.to_owned());
            }
        }
        open
    }

    #[test]
    fn every_element_is_closed_and_every_text_escaped() {
        let svg = drawing();
        assert_eq!(open_at_the_end(&svg), Vec::<String>::new());
        assert!(svg.contains("floor &lt;curl&gt;") && svg.contains("Jib &amp; co"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn bars_are_as_long_as_they_say_up_to_the_end_of_the_scale() {
        let svg = drawing();
        // 560 pixels are 1500 ms.
        assert!(svg.contains("width=\"93.3\""), "{svg}");
        assert!(svg.contains("width=\"560.0\"") && svg.contains("\u{bb} 2672 ms"), "{svg}");
    }
}
