// SPDX-License-Identifier: Apache-2.0

//! The documents of the HTTP API, shared by the dispatcher that writes them and the clients that
//! read them.

use serde::{Deserialize, Serialize};

use crate::event::Outcome;
use crate::outcome::Image;
use crate::state::Epoch;
use crate::{
    ArtifactFacts, ArtifactKind, Build, BuildId, BuildRequest, Digest, Failure, FieldError, Phase,
    PoolName, ProjectName, Reference, Stage, Timestamp, WorkerId,
};

/// The document of a build that succeeded, as an example. Clients are tested with it.
pub const EXAMPLE_BUILD: &str = include_str!("api/build.json");

/// An error, as RFC 9457 `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI reference that identifies the kind of problem: `/problems/<code>`.
    pub r#type: String,
    /// What kind of problem it is, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here and what to do about it.
    pub detail: String,
    /// The stable code of the problem.
    pub code: String,
    /// The mistakes by field, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// An uploaded artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactView {
    /// The digest that a build request names.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The name it was uploaded under last.
    pub filename: String,
    /// When that was.
    pub uploaded_at: Timestamp,
    /// What was read from it; holds its `kind`.
    #[serde(flatten)]
    pub facts: ArtifactFacts,
}

/// The state of a build, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Waiting for a worker.
    Queued,
    /// A worker works on it.
    Running,
    /// Its tags are being written.
    Publishing,
    /// It ended with an image.
    Succeeded,
    /// It ended without one.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl StateName {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Publishing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns the name used in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns whether a build in this state has its outcome.
    #[must_use]
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl From<&Phase> for StateName {
    fn from(phase: &Phase) -> Self {
        match phase {
            Phase::Queued { .. } => Self::Queued,
            Phase::Running { .. } => Self::Running,
            Phase::Publishing { .. } => Self::Publishing,
            Phase::Succeeded { .. } => Self::Succeeded,
            Phase::Failed { .. } => Self::Failed,
            Phase::Cancelled { .. } => Self::Cancelled,
        }
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildView {
    /// Its id.
    pub id: BuildId,
    /// The project it belongs to.
    pub project: ProjectName,
    /// Where it is.
    pub state: StateName,
    /// The stage it is in, while it runs.
    pub stage: Option<Stage>,
    /// The number of the current or last attempt; 0 before the first.
    pub attempt: u32,
    /// The claim of that attempt.
    pub epoch: Epoch,
    /// The worker that holds it.
    pub worker: Option<WorkerId>,
    /// The first reference it is to be published under.
    pub target: Reference,
    /// What was accepted, the environment resolved.
    pub request: BuildRequest,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When its first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// For a retry: when the next attempt may start.
    pub not_before: Option<Timestamp>,
    /// The image, once it succeeded.
    pub image: Option<Image>,
    /// Why it failed, or why its last attempt did.
    pub failure: Option<Failure>,
    /// Its place in the order of acceptance; a tag stays with the greatest.
    pub order: u64,
    /// How often it was replayed from the dead letters.
    pub replays: u32,
}

impl From<&Build> for BuildView {
    fn from(build: &Build) -> Self {
        let state = &build.state;
        let (mut stage, mut not_before, mut image) = (None, None, None);
        let mut failure = build.last_failure.clone();
        match &state.phase {
            Phase::Running { stage: current, .. } => stage = Some(*current),
            Phase::Publishing { .. } => stage = Some(Stage::Push),
            Phase::Queued { not_before: time } => not_before = *time,
            Phase::Succeeded { .. } | Phase::Failed { .. } | Phase::Cancelled { .. } => {}
        }
        match build.outcome() {
            Some(Outcome::Succeeded { image: published }) => {
                image = Some(*published);
                failure = None;
            }
            Some(Outcome::Failed { failure: last }) => failure = Some(last),
            Some(Outcome::Cancelled { message }) => {
                failure = Some(Failure::new(crate::Reason::Cancelled, message));
            }
            None => {}
        }
        Self {
            id: build.request.build,
            project: build.request.project.clone(),
            state: StateName::from(&state.phase),
            stage,
            attempt: state.attempt,
            epoch: state.epoch,
            worker: state.holder().cloned(),
            target: build.request.image().clone(),
            request: build.request.clone(),
            submitted_at: build.accepted_at,
            started_at: build.started_at,
            finished_at: build.finished_at,
            not_before,
            image,
            failure,
            order: build.order,
            replays: build.replays,
        }
    }
}

impl BuildView {
    /// Returns the last line of its log, once it has its outcome.
    #[must_use]
    pub fn last_line(&self) -> Option<String> {
        let failure = self.failure.clone();
        let outcome = match self.state {
            StateName::Queued | StateName::Running | StateName::Publishing => return None,
            StateName::Succeeded => Outcome::Succeeded { image: Box::new(self.image.clone()?) },
            StateName::Failed => Outcome::Failed { failure: failure? },
            StateName::Cancelled => Outcome::Cancelled { message: failure?.message },
        };
        Some(outcome.last_line())
    }
}

/// A page of builds, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildList {
    /// The builds.
    pub builds: Vec<BuildView>,
    /// What to pass as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// The largest number of builds in one batch.
pub const MAX_BATCH: usize = 1000;

/// The results for the builds of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchView {
    /// How many are new builds.
    pub accepted: usize,
    /// How many were submitted before, under their keys.
    pub repeated: usize,
    /// How many are not accepted.
    pub refused: usize,
    /// One result for each build, in the order of the batch.
    pub results: Vec<BatchResult>,
}

/// The result for one build of a batch: the answer that it would have got on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// The HTTP status: 202 accepted now, 200 accepted before, else that of the problem.
    pub status: u16,
    /// The path of the build, if it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The build, if it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildView>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// After how many seconds it should be submitted again; absent if it would fail again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u16>,
}

/// An environment, as far as a user needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentView {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// One line for people.
    pub description: String,
    /// The kinds of artifact it takes.
    pub kinds: Vec<ArtifactKind>,
    /// What images start from.
    pub base: String,
    /// Whether `auto` may choose it.
    pub auto: bool,
    /// The Java release it runs.
    pub java: Option<u16>,
    /// Variables that its software reads.
    pub understands: Vec<String>,
}

impl From<&crate::environment::Environment> for EnvironmentView {
    fn from(environment: &crate::environment::Environment) -> Self {
        Self {
            name: environment.name.clone(),
            aliases: environment.aliases.clone(),
            description: environment.description.clone(),
            kinds: environment.kinds.clone(),
            base: environment.base.to_string(),
            auto: environment.auto,
            java: environment.java,
            understands: environment.understands.clone(),
        }
    }
}

/// A worker, as it announces itself in `slipway-workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its id.
    pub id: WorkerId,
    /// The version of slipway it runs.
    pub version: String,
    /// The pool it takes builds from.
    pub pool: PoolName,
    /// The largest number of builds that it runs at once.
    pub slots: u32,
    /// The builds it runs now.
    pub running: Vec<BuildId>,
    /// The size of its cache of base images, in bytes.
    pub cache_bytes: u64,
    /// Whether it finishes what it holds and takes no more.
    pub draining: bool,
    /// When it started.
    pub started_at: Timestamp,
}

/// A request that could not be built, as the dead-letter stream holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// The build's id, or arbitrary text if the message in the queue was not a request of ours.
    pub build: String,
    /// The project.
    pub project: String,
    /// The pool it was for.
    pub pool: PoolName,
    /// Why it could not be built.
    pub reason: String,
    /// When it became a dead letter.
    pub died_at: Timestamp,
    /// The claim under which it failed.
    pub epoch: Epoch,
    /// The request, as far as its bytes can be read.
    pub request: Option<BuildRequest>,
}

/// A page of dead letters, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterList {
    /// The letters.
    pub letters: Vec<DeadLetterView>,
    /// What to pass as `cursor` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// The builds that one request cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelledView {
    /// Those builds.
    pub cancelled: Vec<BuildId>,
}

/// What a sweep of the reconciler repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairsView {
    /// Unfinished records that it looked at.
    pub unfinished: u64,
    /// Builds whose request was missing in the queue, or no longer delivered, and was published
    /// again.
    pub enqueued: u64,
    /// `build.queued` events that were missing.
    pub queued_events: u64,
    /// `build.started` events that were missing.
    pub started_events: u64,
    /// `build.finished` events that were missing.
    pub finished_events: u64,
    /// Requests moved to the dead letters.
    pub dead_letters: u64,
    /// Messages of finished builds taken out of the queue.
    pub messages_removed: u64,
    /// Builds that waited longer than their limit.
    pub timed_out: u64,
    /// Builds cancelled because a later one has their supersede key.
    pub superseded: u64,
}

/// What a collection of what nobody needs any more found, and what it removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionView {
    /// Whether it only said what it would remove.
    pub dry_run: bool,
    /// Artifacts in the store.
    pub artifacts: CollectedView,
    /// Archived logs.
    pub logs: CollectedView,
    /// Live records of builds.
    pub records: CollectedView,
    /// Owners of tags.
    pub tags: CollectedView,
    /// Dead letters.
    pub dead_letters: CollectedView,
    /// The artifacts that were removed, at most [`MAX_NAMED`](Self::MAX_NAMED) of them.
    pub removed_artifacts: Vec<RemovedArtifact>,
}

impl CollectionView {
    /// The largest number of artifacts that are named.
    pub const MAX_NAMED: usize = 1000;
}

/// What a collection found of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedView {
    /// How many there were.
    pub found: u64,
    /// Their size in bytes.
    pub found_bytes: u64,
    /// How many of them are needed, whatever the bounds say; 0 where that is not looked for.
    pub needed: u64,
    /// How many were removed.
    pub removed: u64,
    /// The size of those, in bytes.
    pub removed_bytes: u64,
    /// How many bytes may be kept.
    pub max_bytes: u64,
    /// How long one may be kept, in seconds.
    pub max_age_s: u64,
}

/// An artifact that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedArtifact {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was last uploaded, asked for or submitted; null if no project had it any more.
    pub used_at: Option<Timestamp>,
    /// Why it was removed.
    pub reason: RemovalReason,
}

/// Why something was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovalReason {
    /// No project has it any more.
    Deleted,
    /// It was not used for longer than the bound of age.
    Age,
    /// It was among the least recently used above the bound of bytes.
    Size,
}

/// The depth of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Builds that wait for a worker.
    pub queued: u64,
    /// Builds that a worker holds, or that wait for their retry.
    pub running: u64,
    /// The same by pool and priority.
    pub classes: Vec<QueueClass>,
    /// The number of requests in the dead-letter stream.
    pub dead: u64,
}

/// The part of the queue that belongs to one pool and priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueClass {
    /// The pool.
    pub pool: PoolName,
    /// The priority.
    pub priority: crate::Priority,
    /// Builds that wait.
    pub queued: u64,
    /// Builds that are held.
    pub running: u64,
}
