// SPDX-License-Identifier: Apache-2.0

//! Builds as text: a list, one build, and an outcome.

use std::time::Duration;

use slipway_proto::Timestamp;
use slipway_proto::api::{BuildView, CancelledView, StateName};
use slipway_proto::outcome::{Image, Transfer};
use slipway_proto::units::count;

use super::facts::Facts;
use super::units::between;
use super::{Table, age, duration, size};

/// Writes the state of a build, with the stage or the reason.
#[must_use]
pub fn state(build: &BuildView) -> String {
    let word = build.state.as_str();
    match (build.state, build.stage, &build.failure) {
        (StateName::Running, Some(stage), _) => format!("{word} ({stage})"),
        (StateName::Queued, _, Some(failure)) => format!("{word} (after {})", failure.reason),
        (StateName::Failed, _, Some(failure)) => format!("{word} ({})", failure.reason),
        _ => word.to_owned(),
    }
}

/// Writes a build on one line: id, state and target.
#[must_use]
pub fn build_line(build: &BuildView) -> String {
    format!("build {} {}: {}", build.id, state(build), build.target)
}

/// Writes the builds that one request cancelled.
#[must_use]
pub fn cancelled(view: &CancelledView) -> Vec<String> {
    if view.cancelled.is_empty() {
        return vec!["no builds wait".to_owned()];
    }
    view.cancelled.iter().map(|build| format!("build {build} cancelled")).collect()
}

/// Writes a list of builds.
#[must_use]
pub fn build_list(builds: &[BuildView], now: Timestamp) -> Vec<String> {
    if builds.is_empty() {
        return vec!["no builds".to_owned()];
    }
    let mut table =
        Table::with_headings(&["ID", "STATE", "IMAGE", "ENVIRONMENT", "SUBMITTED", "TOOK"]);
    for build in builds {
        let took = build.finished_at.map(|end| duration(between(build.submitted_at, end)));
        table.row([
            build.id.to_string(),
            state(build),
            build.target.to_string(),
            build.request.recipe.environment.clone(),
            age(build.submitted_at, now),
            took.unwrap_or_default(),
        ]);
    }
    table.lines()
}

/// Writes everything about one build.
#[must_use]
pub fn build_details(build: &BuildView, now: Timestamp) -> Vec<String> {
    let request = &build.request;
    let mut facts = Facts::default();
    facts.add("build", build.id.to_string());
    facts.add("project", build.project.as_str());
    facts.add("state", state(build));
    if let Some(failure) = &build.failure {
        facts.add("because", failure.message.as_str());
    }
    if let Some(time) = build.not_before
        && !build.state.is_finished()
    {
        facts.add("next try in", duration(between(now, time)));
    }
    facts.add(
        "artifact",
        format!(
            "{} ({}, {}, {})",
            request.artifact.filename,
            request.artifact.kind,
            size(request.artifact.size_bytes),
            request.artifact.digest
        ),
    );
    for reference in &request.references {
        facts.add("target", reference.to_string());
    }
    let recipe = &request.recipe;
    facts.add("environment", format!("{} on {}", recipe.environment, recipe.base));
    facts.add("platform", request.platform.to_string());
    for note in &request.notes {
        facts.add("note", note.to_string());
    }
    facts.add("queue", format!("pool {}, priority {}", request.pool, request.priority));
    if let Some(key) = &request.supersede_key {
        facts.add("supersedes", format!("earlier builds with the key {key}"));
    }
    if let Some(build) = request.retry_of {
        facts.add("retry of", build.to_string());
    }
    if build.replays > 0 {
        facts.add("replays", build.replays.to_string());
    }
    if build.attempt > 0 {
        facts.add("attempt", format!("{} of {}", build.attempt, request.max_attempts));
    }
    if let Some(worker) = &build.worker {
        facts.add("worker", worker.as_str());
    }
    facts.add("submitted", format!("{} ({})", build.submitted_at, age(build.submitted_at, now)));
    if let Some(time) = build.started_at {
        facts.add("waited", duration(between(build.submitted_at, time)));
    }
    if let Some(time) = build.finished_at {
        facts.add("took", duration(between(build.submitted_at, time)));
    }
    if let Some(image) = &build.image {
        add_image(&mut facts, image);
        if let Some(base) = &image.base {
            facts.add("base", format!("{} ({})", base.reference, base.digest));
        }
    }
    facts.lines()
}

/// Writes the outcome of a build, and for an image what to do with it. `written` names the file of
/// an image that is not in a registry.
#[must_use]
pub fn outcome(build: &BuildView, written: Option<&str>) -> Vec<String> {
    let took = build.finished_at.map(|end| duration(between(build.submitted_at, end)));
    let took = took.map_or_else(String::new, |took| format!(" in {took}"));
    let Some(image) = build.image.as_ref().filter(|_| build.state == StateName::Succeeded) else {
        let tries = match build.attempt {
            0 | 1 => String::new(),
            several => format!(" at attempt {several}"),
        };
        let mut lines = vec![format!("build {} {}{tries}{took}", build.id, build.state.as_str())];
        lines.extend(build.failure.as_ref().map(|failure| format!("  {failure}")));
        return lines;
    };
    let mut facts = Facts::default();
    match written {
        Some(place) => add_written(&mut facts, image, place),
        None => add_image(&mut facts, image),
    }
    let mut lines = vec![format!("build {} succeeded{took}", build.id)];
    lines.extend(facts.lines().into_iter().map(|line| format!("  {line}")));
    lines
}

fn add_image(facts: &mut Facts, image: &Image) {
    facts.add("image", image.pull.to_string());
    for reference in &image.references {
        facts.add("tagged", reference.to_string());
    }
    for tag in &image.superseded {
        let (reference, owner) = (&tag.reference, tag.by);
        facts.add(
            "tag_superseded",
            format!("{reference} belongs to build {owner}, which was submitted later"),
        );
    }
    add_size(facts, image);
    let moved = |wanted| image.layers.iter().filter(|layer| layer.transfer == wanted).count();
    let transfers: Vec<String> = [
        (moved(Transfer::Uploaded), "sent"),
        (moved(Transfer::Mounted), "mounted"),
        (moved(Transfer::Found), "already there"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let how = match transfers.as_slice() {
        [] => String::new(),
        transfers => format!(" (layers: {})", transfers.join(", ")),
    };
    facts.add("uploaded", format!("{}{how}", size(image.sent_bytes)));
    add_stages(facts, image);
}

/// The facts of an image that went to no registry.
fn add_written(facts: &mut Facts, image: &Image, place: &str) {
    facts.add("image", place);
    facts.add("digest", image.digest.to_string());
    for reference in &image.references {
        facts.add("named", reference.to_string());
    }
    add_size(facts, image);
    add_stages(facts, image);
}

fn add_size(facts: &mut Facts, image: &Image) {
    let ours = image.layers.iter().filter(|layer| !layer.base).count();
    let base = image.layers.len() - ours;
    let layers = match base {
        0 => count(ours, "layer"),
        base => format!("{}, {base} of them the base's", count(ours + base, "layer")),
    };
    facts.add("size", format!("{} in {layers}", size(image.size_bytes)));
}

fn add_stages(facts: &mut Facts, image: &Image) {
    let stages: Vec<String> = image
        .stages
        .iter()
        .map(|time| format!("{} {}", time.stage, duration(Duration::from_micros(time.duration_us))))
        .collect();
    facts.add("stages", stages.join(", "));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn build() -> BuildView {
        serde_json::from_str(slipway_proto::api::EXAMPLE_BUILD).expect("a build's document")
    }

    fn failed() -> BuildView {
        let failure = slipway_proto::Failure::new(
            slipway_proto::Reason::RegistryDenied,
            "r.example denied the push: name a registry secret",
        );
        BuildView {
            state: StateName::Failed,
            image: None,
            failure: Some(failure),
            attempt: 2,
            ..build()
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().expect("a time")
    }

    #[test]
    fn the_end_of_a_good_build_says_what_to_pull() {
        let digest = slipway_proto::Digest::of(b"x");
        assert_eq!(
            outcome(&build(), None),
            [
                "build 01890a5d-ac96-774b-bcce-b302099a8057 succeeded in 412 ms".to_owned(),
                format!("  image     r.example/team/app@{digest}"),
                "  tagged    r.example/team/app:1".to_owned(),
                "            r.example/team/app:latest".to_owned(),
                "  size      130 MB in 3 layers, 2 of them the base's".to_owned(),
                "  uploaded  46.3 MB (layers: 1 sent, 1 mounted, 1 already there)".to_owned(),
                "  stages    fetch 1.2 ms, push 399 ms".to_owned(),
            ]
        );
    }

    #[test]
    fn an_image_that_went_to_no_registry_cannot_be_pulled() {
        let lines = outcome(&build(), Some("oci:out"));
        assert_eq!(lines[1], "  image   oci:out");
        assert!(lines.iter().all(|line| !line.contains('@') && !line.contains("uploaded")));
        assert!(lines[3].ends_with("r.example/team/app:1"), "{lines:?}");
    }

    #[test]
    fn the_end_of_a_bad_build_says_why() {
        assert_eq!(
            outcome(&failed(), None),
            [
                "build 01890a5d-ac96-774b-bcce-b302099a8057 failed at attempt 2 in 412 ms",
                "  RegistryDenied: r.example denied the push: name a registry secret",
            ]
        );
    }

    #[test]
    fn a_tag_that_was_left_to_a_later_build_is_told() {
        let owner = slipway_proto::BuildId::fresh();
        let mut build = build();
        let image = build.image.as_mut().expect("an image");
        let reference = image.references.pop().expect("a reference");
        image.superseded = vec![slipway_proto::outcome::SupersededTag { reference, by: owner }];
        let told = format!(
            "tag_superseded  r.example/team/app:latest belongs to build {owner}, which was \
             submitted later"
        );
        for lines in [outcome(&build, None), build_details(&build, now())] {
            assert!(lines.iter().any(|line| line.trim_start() == told), "{lines:?}");
        }
    }

    #[test]
    fn details_tell_what_a_build_has_to_do_with_others() {
        let usual = build_details(&build(), now()).join("\n");
        for name in ["supersedes", "retry of", "replays"] {
            assert!(!usual.contains(name), "{usual}");
        }
        let mut build = build();
        let old = slipway_proto::BuildId::fresh();
        build.request.retry_of = Some(old);
        build.request.supersede_key = Some("refs/heads/main".into());
        build.replays = 2;
        let text = build_details(&build, now()).join("\n");
        for part in [
            "supersedes   earlier builds with the key refs/heads/main\n".to_owned(),
            format!("retry of     {old}\n"),
            "replays      2\n".to_owned(),
        ] {
            assert!(text.contains(&part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn a_cancelled_build_is_one_line() {
        let build = BuildView { state: StateName::Cancelled, image: None, ..build() };
        assert_eq!(
            build_line(&build),
            "build 01890a5d-ac96-774b-bcce-b302099a8057 cancelled: r.example/team/app:1"
        );
        let view = CancelledView { cancelled: vec![build.id] };
        assert_eq!(cancelled(&view), ["build 01890a5d-ac96-774b-bcce-b302099a8057 cancelled"]);
        assert_eq!(cancelled(&CancelledView { cancelled: vec![] }), ["no builds wait"]);
    }

    #[test]
    fn lists_show_state_age_and_time() {
        let lines = build_list(&[build(), failed()], now());
        let words = |line: &str| line.split("  ").map(str::trim).map(str::to_owned).collect();
        let columns: Vec<String> = words(&lines[1]);
        assert!(columns.contains(&"succeeded".to_owned()), "{lines:?}");
        assert!(lines[1].ends_with("java-17      5 min ago  412 ms"), "{lines:?}");
        assert!(lines[2].contains("failed (RegistryDenied)"), "{lines:?}");
        assert_eq!(build_list(&[], now()), ["no builds"]);
    }

    #[test]
    fn details_hold_everything_people_ask_for() {
        let text = build_details(&build(), now()).join("\n");
        for part in ["succeeded", "46.2 MB", "java-17 on docker.io", "waited       2.0 ms", "w-1"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let text = build_details(&failed(), now()).join("\n");
        assert!(text.contains("because      r.example denied the push"), "{text}");
    }
}
