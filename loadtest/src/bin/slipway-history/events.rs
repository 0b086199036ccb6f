// SPDX-License-Identifier: Apache-2.0

//! Realistic events of builds: those of a Spring Boot JAR on a Java base.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use slipway_proto::artifact::JarFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::event::Event;
use slipway_proto::outcome::{BaseImage, Image, Layer, StageTime, Transfer};
use slipway_proto::request::Artifact;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, ArtifactKind, Build, BuildId, BuildRequest, Change, Digest, Failure, Platform,
    ProjectName, Reason, Reference, Stage, Submission, Timestamp, WorkerId,
};

/// How many projects the builds belong to.
pub(crate) const PROJECTS: u64 = 20;

/// How many applications each project has.
pub(crate) const APPS: u64 = 50;

/// One build in this many fails.
const FAILS: u64 = 25;

/// One build in this many is tried twice.
const RETRIES: u64 = 50;

/// This many builds at the end are unfinished.
const UNFINISHED: u64 = 500;

/// Returns the project of a build.
pub(crate) fn project(number: u64) -> anyhow::Result<ProjectName> {
    Ok(format!("team-{}", number % PROJECTS).parse()?)
}

/// Returns the main reference of a build.
pub(crate) fn image(number: u64) -> anyhow::Result<Reference> {
    let app = number / PROJECTS % APPS;
    let team = number % PROJECTS;
    Ok(format!("registry.example.com/team-{team}/app-{app}:1.{number}").parse()?)
}

/// Returns the events of build `number` of `builds`, in order.
pub(crate) fn of(number: u64, builds: u64) -> anyhow::Result<Vec<Event>> {
    let start = Timestamp::from_second(1_750_000_000)?;
    let mut now = start.checked_add(Duration::from_millis(number * 40))?;
    let mut build = Build::accepted(request(number)?, digest(number, 0), now);
    build.order = number + 1;
    let mut events = vec![Event::queued(&build)];
    let worker: WorkerId = format!("worker-{}", number % 16).parse()?;
    let tries = if number.is_multiple_of(RETRIES) { 2 } else { 1 };
    for epoch in 1..=tries {
        now = now.checked_add(Duration::from_millis(3))?;
        build = build.apply(&Change::Claim { epoch, worker: worker.clone() }, now)?;
        events.extend(Event::started(&build));
        for stage in [Stage::Resolve, Stage::Assemble, Stage::Push] {
            now = now.checked_add(Duration::from_millis(9))?;
            build = build.apply(&Change::Enter { epoch, stage }, now)?;
            events.push(Event::stage(&build, &worker, stage, now));
        }
        if builds - number <= UNFINISHED {
            return Ok(events);
        }
        if epoch < tries {
            let failure = Failure::new(Reason::PushImageFailed, "the registry answered 503");
            events.push(Event::retrying(&build, &worker, &failure, true, now, now));
            let change = Change::Retry { epoch, not_before: now, failure };
            build = build.apply(&change, now)?;
        }
    }
    if number.is_multiple_of(FAILS) {
        let failure = Failure::new(Reason::PushImageFailed, "the registry denied the push");
        build = build.apply(&Change::Fail { epoch: tries, failure, dead: false }, now)?;
    } else {
        let image = Box::new(published(number)?);
        events.push(Event::published(&build, &image, now));
        build = build.apply(&Change::Publish { epoch: tries }, now)?;
        build = build.apply(&Change::Succeed { epoch: tries, image }, now)?;
    }
    events.push(Event::finished(&build).context("it is finished")?);
    Ok(events)
}

fn digest(number: u64, what: u64) -> Digest {
    Digest::of(format!("{number}.{what}").as_bytes())
}

/// The part that all requests share, as a dispatcher makes it from a submission.
static REQUEST: LazyLock<BuildRequest> = LazyLock::new(|| {
    let document = json!({
        "artifact": digest(0, 1),
        "image": "registry.example.com/team/app",
        "environment": "java-21",
        "env": {"JAVA_OPTIONS": "-Xmx256m"},
        "labels": {"org.opencontainers.image.revision": "0123456789abcdef0123456789abcdef"},
    });
    let facts = ArtifactFacts::Jar(JarFacts {
        main_class: Some("org.springframework.boot.loader.launch.JarLauncher".to_owned()),
        ..JarFacts::default()
    });
    let uploaded = Uploaded { size_bytes: 0, filename: String::new(), facts };
    let project = "team".parse().expect("it is a name");
    Submission::read(&document)
        .accept(BuildId::fresh(), project, Some(&uploaded), &Catalogue::default())
        .expect("the submission has no mistakes")
});

fn request(number: u64) -> anyhow::Result<BuildRequest> {
    Ok(BuildRequest {
        build: BuildId::for_idempotency_key(&project(number)?, &number.to_string()),
        project: project(number)?,
        artifact: Artifact {
            digest: digest(number, 1),
            size_bytes: 46_000_000 + number,
            kind: ArtifactKind::Jar,
            filename: format!("app-{}.jar", number / PROJECTS % APPS),
        },
        references: vec![image(number)?],
        supersede_key: number.is_multiple_of(2).then(|| format!("branch-{}", number % 1000)),
        ..REQUEST.clone()
    })
}

fn published(number: u64) -> anyhow::Result<Image> {
    let layer = |place: u64| Layer {
        digest: digest(if place < 5 { 0 } else { number }, 10 + place),
        diff_id: digest(if place < 5 { 0 } else { number }, 30 + place),
        size_bytes: 1_000_000 * (place + 1),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        base: place < 5,
        transfer: if place < 5 { Transfer::Mounted } else { Transfer::Uploaded },
    };
    let stage = |stage, duration_us| StageTime { stage, duration_us };
    let reference = image(number)?;
    let digest_of_manifest = digest(number, 2);
    Ok(Image {
        digest: digest_of_manifest,
        pull: reference.with_digest(digest_of_manifest),
        references: vec![reference],
        superseded: Vec::new(),
        platform: Platform::LINUX_AMD64,
        config_digest: digest(number, 3),
        base: Some(BaseImage {
            reference: "docker.io/library/eclipse-temurin:21-jre".parse()?,
            digest: digest(0, 4),
        }),
        layers: (0..8).map(layer).collect(),
        size_bytes: 130_000_000,
        sent_bytes: 46_000_000,
        assembly_version: 1,
        platforms: Vec::new(),
        stages: vec![
            stage(Stage::Fetch, 1234),
            stage(Stage::Resolve, 2345),
            stage(Stage::Assemble, 34567),
            stage(Stage::Push, 45678),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_end_as_they_should() {
        let last = |number| {
            let events = of(number, 2 * UNFINISHED).expect("it has events");
            let types: Vec<&str> = events.iter().map(|event| event.body.short_type()).collect();
            (types.len(), *types.last().expect("an event"))
        };
        assert_eq!(last(1), (7, "build.finished"), "it succeeds");
        assert_eq!(last(FAILS), (6, "build.finished"), "it fails");
        assert_eq!(last(RETRIES).0, 11, "it is tried twice, and fails");
        assert_ne!(last(2 * UNFINISHED - 1).1, "build.finished", "it is still under way");
    }
}
