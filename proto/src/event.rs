// SPDX-License-Identifier: Apache-2.0

//! Events: past-tense facts about builds, as CloudEvents 1.0 in their JSON format.
//!
//! A body is complete in itself, so that a dashboard in any language can subscribe to
//! `<prefix>.event.<project>.>` and needs to ask nobody else. The words are those of CDEvents where
//! it has one (`build.queued`, `build.started`, `build.finished`, `artifact.published`); the types
//! are Slipway's own (`dev.slipway.…`), because a `dev.cdevents` type would promise CDEvents'
//! envelope inside the CloudEvent.

mod source;

use serde::{Deserialize, Serialize};

use crate::outcome::Image;
use crate::state::Epoch;
use crate::{
    Build, BuildId, BuildRequest, Digest, Failure, Platform, ProjectName, Reference, Stage,
    Timestamp, WorkerId,
};
pub use source::{EventSource, ParseEventSourceError};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// Identifies the fact: the same fact published twice has the same id.
    pub id: String,
    /// The project, as `/projects/<project>`.
    pub source: EventSource,
    /// The build.
    pub subject: BuildId,
    /// When it happened, by the clock of the process that saw it.
    pub time: Timestamp,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The members `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened: the CloudEvents members `type` and `data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventBody {
    /// A build was accepted and is in the queue.
    #[serde(rename = "dev.slipway.build.queued.v1")]
    Queued(Box<Queued>),
    /// A worker started an attempt.
    #[serde(rename = "dev.slipway.build.started.v1")]
    Started(Started),
    /// An attempt entered a stage.
    #[serde(rename = "dev.slipway.build.stage.v1")]
    Stage(StageEntered),
    /// An attempt ended without an outcome; another will follow.
    #[serde(rename = "dev.slipway.build.retrying.v1")]
    Retrying(Box<Retrying>),
    /// An image is in the registry under its references.
    #[serde(rename = "dev.slipway.artifact.published.v1")]
    Published(Box<Published>),
    /// The build got its outcome.
    #[serde(rename = "dev.slipway.build.finished.v1")]
    Finished(Box<Finished>),
}

impl EventBody {
    /// Returns the short type: the last tokens of the event's subject.
    #[must_use]
    pub fn short_type(&self) -> &'static str {
        match self {
            Self::Queued(_) => "build.queued",
            Self::Started(_) => "build.started",
            Self::Stage(_) => "build.stage",
            Self::Retrying(_) => "build.retrying",
            Self::Published(_) => "artifact.published",
            Self::Finished(_) => "build.finished",
        }
    }
}

/// Data of `build.queued`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The whole request.
    pub request: BuildRequest,
    /// The digest of what the client sent.
    pub submission: Digest,
    /// The build's place in the order of acceptance: of two builds of one tag, the one with the
    /// greater number keeps it.
    pub order: u64,
    /// How often it was replayed; 0 when it is queued for the first time.
    pub replays: u32,
    /// The claim behind which it is queued; 0 for the first time.
    pub epoch: Epoch,
}

/// Data of `build.started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The project.
    pub project: ProjectName,
    /// The build's main reference.
    pub image: Reference,
    /// The claim.
    pub epoch: Epoch,
    /// The attempt's number.
    pub attempt: u32,
    /// The worker that started it.
    pub worker: WorkerId,
}

/// Data of `build.stage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntered {
    /// The project.
    pub project: ProjectName,
    /// The build's main reference.
    pub image: Reference,
    /// The claim.
    pub epoch: Epoch,
    /// The attempt's number.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// The stage it entered.
    pub stage: Stage,
}

/// Data of `build.retrying`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrying {
    /// The project.
    pub project: ProjectName,
    /// The build's main reference.
    pub image: Reference,
    /// The claim that ended.
    pub epoch: Epoch,
    /// The attempt that ended.
    pub attempt: u32,
    /// The worker that held it.
    pub worker: WorkerId,
    /// Why it ended.
    pub failure: Failure,
    /// Whether it counts against the build's attempts.
    pub charged: bool,
    /// When the next attempt may start.
    pub not_before: Timestamp,
}

/// Data of `artifact.published`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The project.
    pub project: ProjectName,
    /// The claim under which it was published.
    pub epoch: Epoch,
    /// The digest of the manifest.
    pub digest: Digest,
    /// What to hand to `podman pull`.
    pub pull: Reference,
    /// The references that were tagged.
    pub references: Vec<Reference>,
    /// What it runs on.
    pub platform: Platform,
    /// All platforms, if there are several. Then `digest` names their index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// The stored size of layers and config, in bytes.
    pub size_bytes: u64,
}

/// Data of `build.finished`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The project.
    pub project: ProjectName,
    /// The build's main reference.
    pub image: Reference,
    /// The build's last claim; 0 if it never started.
    pub epoch: Epoch,
    /// The last attempt; 0 if it never started.
    pub attempt: u32,
    /// The worker of that attempt.
    pub worker: Option<WorkerId>,
    /// When the build was accepted.
    pub accepted_at: Timestamp,
    /// When its first attempt started.
    pub started_at: Option<Timestamp>,
    /// Whether the request stands in the dead-letter stream.
    pub dead: bool,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The one outcome of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// An image was published.
    Succeeded {
        /// The image. Its member is `published`, because `image` is the build's main reference.
        #[serde(rename = "published")]
        image: Box<Image>,
    },
    /// The build failed for good.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The build was cancelled.
    Cancelled {
        /// By whom or what.
        message: String,
    },
}

impl Outcome {
    /// Returns the line that ends the log of the build, whoever ended the build.
    #[must_use]
    pub fn last_line(&self) -> String {
        let line = match self {
            Self::Succeeded { .. } => "Build completed successfully".to_owned(),
            Self::Failed { failure } => format!("Build failed: {failure}"),
            Self::Cancelled { message } => format!("Build cancelled: {message}"),
        };
        line.replace(['\r', '\n'], " ")
    }
}

impl Event {
    fn new(
        project: &ProjectName,
        build: BuildId,
        discriminator: &str,
        time: Timestamp,
        body: EventBody,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: format!("{build}:{discriminator}:{}", body.short_type()),
            source: EventSource { project: project.clone() },
            subject: build,
            time,
            datacontenttype: "application/json".to_owned(),
            body,
        }
    }

    /// Returns the event that a build was accepted. Made again from the record, it is the same
    /// event.
    #[must_use]
    pub fn queued(build: &Build) -> Self {
        let body = EventBody::Queued(Box::new(Queued {
            request: build.request.clone(),
            submission: build.submission,
            order: build.order,
            replays: build.replays,
            epoch: if build.replays == 0 { 0 } else { build.state.epoch },
        }));
        let request = &build.request;
        let discriminator = build.replays.to_string();
        Self::new(&request.project, request.build, &discriminator, build.queued_since(), body)
    }

    /// Returns the event that the record's last attempt started; `None` if none has since the build
    /// was queued. Made again from the record, it is the same event.
    #[must_use]
    pub fn started(build: &Build) -> Option<Self> {
        let request = &build.request;
        let worker = build.last_worker.as_ref()?;
        let time = build.attempt_started_at?;
        let body = EventBody::Started(Started {
            project: request.project.clone(),
            image: request.image().clone(),
            epoch: build.state.epoch,
            attempt: build.state.attempt,
            worker: worker.clone(),
        });
        let epoch = build.state.epoch.to_string();
        Some(Self::new(&request.project, request.build, &epoch, time, body))
    }

    /// Returns the event that the attempt entered `stage`.
    #[must_use]
    pub fn stage(build: &Build, worker: &WorkerId, stage: Stage, now: Timestamp) -> Self {
        let request = &build.request;
        let body = EventBody::Stage(StageEntered {
            project: request.project.clone(),
            image: request.image().clone(),
            epoch: build.state.epoch,
            attempt: build.state.attempt,
            worker: worker.clone(),
            stage,
        });
        let discriminator = format!("{}:{stage}", build.state.epoch);
        Self::new(&request.project, request.build, &discriminator, now, body)
    }

    /// Returns the event that the attempt of `build` ended and another will follow.
    #[must_use]
    pub fn retrying(
        build: &Build,
        worker: &WorkerId,
        failure: &Failure,
        charged: bool,
        not_before: Timestamp,
        now: Timestamp,
    ) -> Self {
        let request = &build.request;
        let body = EventBody::Retrying(Box::new(Retrying {
            project: request.project.clone(),
            image: request.image().clone(),
            epoch: build.state.epoch,
            attempt: build.state.attempt,
            worker: worker.clone(),
            failure: failure.clone(),
            charged,
            not_before,
        }));
        Self::new(&request.project, request.build, &build.state.epoch.to_string(), now, body)
    }

    /// Returns the event that an image was published.
    #[must_use]
    pub fn published(build: &Build, image: &Image, now: Timestamp) -> Self {
        let request = &build.request;
        let epoch = build.state.epoch;
        let body = EventBody::Published(Box::new(Published {
            project: request.project.clone(),
            epoch,
            digest: image.digest,
            pull: image.pull.clone(),
            references: image.references.clone(),
            platform: image.platform,
            platforms: image.platforms.iter().map(|image| image.platform).collect(),
            size_bytes: image.size_bytes,
        }));
        Self::new(&request.project, request.build, &epoch.to_string(), now, body)
    }

    /// Returns the event of the outcome in the record; `None` while it has none. Made again from
    /// the record, it is the same event.
    #[must_use]
    pub fn finished(build: &Build) -> Option<Self> {
        let request = &build.request;
        let body = EventBody::Finished(Box::new(Finished {
            project: request.project.clone(),
            image: request.image().clone(),
            epoch: build.state.epoch,
            attempt: build.state.attempt,
            worker: build.last_worker.clone(),
            accepted_at: build.accepted_at,
            started_at: build.started_at,
            dead: build.is_dead(),
            outcome: build.outcome()?,
        }));
        let time = build.finished_at?;
        // The epoch of the record does not change after the outcome. So every publisher makes the
        // same event, and the outcome of a replay is another event.
        let epoch = build.state.epoch.to_string();
        Some(Self::new(&request.project, request.build, &epoch, time, body))
    }
}
