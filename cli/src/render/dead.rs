// SPDX-License-Identifier: Apache-2.0

//! Dead letters as text: a list, and one letter.

use slipway_proto::Timestamp;
use slipway_proto::api::DeadLetterView;

use super::facts::Facts;
use super::{Table, age, size};

/// How much of a reason a list shows.
const REASON_WIDTH: usize = 72;

/// Writes a list of dead letters.
#[must_use]
pub fn dead_letters(letters: &[DeadLetterView], now: Timestamp) -> Vec<String> {
    if letters.is_empty() {
        return vec!["no dead letters".to_owned()];
    }
    let mut table = Table::with_headings(&["BUILD", "DIED", "REASON", "IMAGE"]);
    for letter in letters {
        let image = letter.request.as_ref().map(|request| request.image().to_string());
        table.row([
            letter.build.clone(),
            age(letter.died_at, now),
            shortened(&letter.reason),
            image.unwrap_or_else(|| "(the request cannot be read)".to_owned()),
        ]);
    }
    table.lines()
}

/// Writes everything about one dead letter, and what can be done about it.
#[must_use]
pub fn dead_letter_details(letter: &DeadLetterView, now: Timestamp) -> Vec<String> {
    let mut facts = Facts::default();
    facts.add("build", letter.build.as_str());
    facts.add("project", letter.project.as_str());
    facts.add("died", format!("{} ({})", letter.died_at, age(letter.died_at, now)));
    facts.add("because", letter.reason.as_str());
    facts.add("epoch", letter.epoch.to_string());
    facts.add("pool", letter.pool.as_str());
    match &letter.request {
        Some(request) => {
            let artifact = &request.artifact;
            let kind_and_size = format!("{}, {}", artifact.kind, size(artifact.size_bytes));
            facts.add(
                "artifact",
                format!("{} ({kind_and_size}, {})", artifact.filename, artifact.digest),
            );
            for reference in &request.references {
                facts.add("target", reference.to_string());
            }
            let recipe = &request.recipe;
            facts.add("environment", format!("{} on {}", recipe.environment, recipe.base));
        }
        None => facts.add("request", "cannot be read"),
    }
    let mut lines = facts.lines();
    lines.push("To run it again, or to remove it:".to_owned());
    lines.push(format!("  slipway dead replay {}", letter.build));
    lines.push(format!("  slipway dead drop {}", letter.build));
    lines
}

/// Cuts a text to the width of its column.
fn shortened(text: &str) -> String {
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(REASON_WIDTH).collect();
    if characters.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetterView {
        let build = crate::render::example_build();
        DeadLetterView {
            build: build.id.to_string(),
            project: "team".into(),
            pool: "default".parse().expect("a name"),
            reason: "AttemptsExhausted: reset".into(),
            died_at: "2026-01-01T00:00:00Z".parse().expect("a time"),
            epoch: 5,
            request: Some(build.request),
        }
    }

    fn unreadable() -> DeadLetterView {
        DeadLetterView { build: "nonsense".into(), request: None, ..letter() }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().expect("a time")
    }

    #[test]
    fn a_list_says_what_died_when_and_why() {
        assert_eq!(
            dead_letters(&[letter(), unreadable()], now()),
            [
                "BUILD                                 DIED       REASON                    \
                 IMAGE",
                "01890a5d-ac96-774b-bcce-b302099a8057  5 min ago  AttemptsExhausted: reset  \
                 r.example/team/app:1",
                "nonsense                              5 min ago  AttemptsExhausted: reset  \
                 (the request cannot be read)",
            ]
        );
        assert_eq!(dead_letters(&[], now()), ["no dead letters"]);
    }

    #[test]
    fn a_long_reason_is_cut_in_the_list_alone() {
        let reason = "größer ".repeat(20);
        let long = DeadLetterView { reason: reason.clone(), ..letter() };
        assert_eq!(shortened(&reason).chars().count(), REASON_WIDTH);
        assert!(dead_letters(std::slice::from_ref(&long), now())[1].contains('…'));
        assert!(dead_letter_details(&long, now()).join("\n").contains(reason.trim_end()));
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn details_say_what_to_do() {
        let text = dead_letter_details(&letter(), now()).join("\n");
        for part in [
            "because      AttemptsExhausted: reset",
            "target       r.example/team/app:1\n             r.example/team/app:latest\n",
            "46.2 MB",
            "  slipway dead replay 01890a5d-ac96-774b-bcce-b302099a8057",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let text = dead_letter_details(&unreadable(), now()).join("\n");
        assert!(text.contains("request  cannot be read"), "{text}");
    }
}
