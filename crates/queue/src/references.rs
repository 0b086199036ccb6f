// SPDX-License-Identifier: Apache-2.0

//! What builds and dead letters still need, so that nothing of it is collected.
//!
//! Builds change while they are read, so the order matters: whatever leaves one place has entered a
//! later one before. A replay writes the record before it drops the letter, so letters are read
//! first. A worker that makes an expired record again still holds the message, so the queue is
//! listed before the records. A build that dies is `dead` in its record before its letter exists,
//! and such a record counts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures::TryStreamExt as _;
use serde::Deserialize;
use slipway_proto::api::StateName;
use slipway_proto::subject::{RequestSubject, bucket_stream, bucket_subjects};
use slipway_proto::{BuildId, BuildRequest, Digest, ProjectName, Timestamp, codec};

use crate::Queue;
use crate::dead::letter;
use crate::query::QueryError;
use crate::read::{Message, ReadError, Reader, is_missing};

/// How many messages are read at once.
const BATCH: usize = 1024;

/// How often the end of a bucket is read again. A record that changes moves to the end, and would
/// have to change once in each of these rounds, which last milliseconds, to be missed.
const MAX_ROUNDS: usize = 8;

/// How long nothing may arrive before it is checked that something is left to read.
const SILENCE: Duration = Duration::from_secs(3);

/// Why the references are not known.
#[derive(Debug, thiserror::Error)]
pub enum ReferencesError {
    /// Records or letters could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The queue could not be listed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A build changed in a way that leaves open what it needs.
    #[error("the build {0} was taken while it was looked at")]
    Changed(String),
}

/// What builds and dead letters need.
#[derive(Debug, Clone, Default)]
pub struct References {
    needed: HashMap<Digest, Vec<(ProjectName, BuildId)>>,
    submitted: HashMap<Digest, Timestamp>,
    oldest: Option<u64>,
}

impl References {
    /// Returns whether an unfinished build or a dead letter needs an artifact.
    #[must_use]
    pub fn needs(&self, artifact: Digest) -> bool {
        self.needed.contains_key(&artifact)
    }

    /// Returns a build of a project that needs an artifact.
    #[must_use]
    pub fn build_of(&self, project: &ProjectName, artifact: Digest) -> Option<BuildId> {
        let builds = self.needed.get(&artifact)?;
        builds.iter().find(|(owner, _)| owner == project).map(|(_, build)| *build)
    }

    /// Returns when the last build of an artifact was accepted, if its record still exists.
    #[must_use]
    pub fn submitted_at(&self, artifact: Digest) -> Option<Timestamp> {
        self.submitted.get(&artifact).copied()
    }

    /// Returns whether every build that may still write tags was accepted after one of this order.
    #[must_use]
    pub fn are_all_after(&self, order: u64) -> bool {
        self.oldest.is_none_or(|oldest| oldest > order)
    }

    fn need(
        &mut self,
        artifacts: impl Iterator<Item = Digest>,
        project: &ProjectName,
        build: BuildId,
        order: u64,
    ) {
        for artifact in artifacts {
            self.needed.entry(artifact).or_default().push((project.clone(), build));
        }
        self.oldest = Some(self.oldest.map_or(order, |oldest| oldest.min(order)));
    }

    fn need_request(&mut self, request: &BuildRequest, order: u64) {
        let artifacts = request.artifacts().map(|artifact| artifact.digest);
        self.need(artifacts, &request.project, request.build, order);
    }

    fn note(&mut self, record: Outline, revision: u64) {
        let Outline { request, accepted_at, order, state } = record;
        for artifact in request.artifacts() {
            let last = self.submitted.entry(artifact).or_insert(accepted_at);
            *last = (*last).max(accepted_at);
        }
        if !state.phase.phase.is_finished() || state.phase.dead {
            let order = if order == 0 { revision } else { order };
            self.need(request.artifacts(), &request.project, request.build, order);
        }
    }
}

/// The part of a [`Build`](slipway_proto::Build) that matters here.
#[derive(Deserialize)]
struct Outline {
    request: RequestOutline,
    accepted_at: Timestamp,
    order: u64,
    state: StateOutline,
}

#[derive(Deserialize)]
struct RequestOutline {
    build: BuildId,
    project: ProjectName,
    artifact: ArtifactOutline,
    #[serde(default)]
    further_platforms: Vec<PartOutline>,
}

impl RequestOutline {
    fn artifacts(&self) -> impl Iterator<Item = Digest> {
        let further = self.further_platforms.iter().map(|part| part.artifact.digest);
        std::iter::once(self.artifact.digest).chain(further)
    }
}

#[derive(Deserialize)]
struct PartOutline {
    artifact: ArtifactOutline,
}

#[derive(Deserialize)]
struct ArtifactOutline {
    digest: Digest,
}

#[derive(Deserialize)]
struct StateOutline {
    phase: PhaseOutline,
}

#[derive(Deserialize)]
struct PhaseOutline {
    phase: StateName,
    #[serde(default)]
    dead: bool,
}

impl Queue {
    /// Reads what all builds and dead letters need now. Builds that are accepted later may be
    /// missing.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or something was in the middle of a change.
    pub async fn references(&self) -> Result<References, ReferencesError> {
        let mut references = References::default();
        let (stream, filter) = (self.subjects.dead_stream(), self.subjects.deads());
        self.read_all(&stream, &filter, |message| {
            let Some(letter) = letter(message) else { return };
            if let Some(request) = letter.request() {
                // A replay takes a place at the end of the order if the record is gone; if it is
                // not, the record says the order.
                references.need_request(&request, u64::MAX);
            }
        })
        .await?;
        let queued = self.queued_subjects().await?;
        let bucket = self.subjects.state_bucket();
        let mut recorded: HashSet<BuildId> = HashSet::new();
        let (stream, filter) = (bucket_stream(&bucket), bucket_subjects(&bucket));
        self.read_all(&stream, &filter, |message| {
            if message.is_removal() {
                return;
            }
            match serde_json::from_slice::<Outline>(&message.payload) {
                Ok(record) => {
                    recorded.insert(record.request.build);
                    references.note(record, message.sequence);
                }
                Err(error) => tracing::warn!(%error, "skipped a record that does not parse"),
            }
        })
        .await?;
        for subject in queued {
            let id = RequestSubject::parse(&subject).and_then(|subject| subject.ids());
            if id.is_some_and(|(_, build)| !recorded.contains(&build)) {
                self.note_message(&subject, &mut references).await?;
            }
        }
        Ok(references)
    }

    /// Notes a build whose record expired while it waited. Its message holds everything.
    async fn note_message(
        &self,
        subject: &str,
        references: &mut References,
    ) -> Result<(), ReferencesError> {
        let name = self.subjects.builds_stream();
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| QueryError::of_stream(&name, error))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => {
                // A message that is not a request can never be built.
                if let Ok(request) = codec::decode(&message.payload) {
                    references.need_request(&request, 0);
                }
                Ok(())
            }
            Err(error) if is_missing(&error) => Err(ReferencesError::Changed(subject.to_owned())),
            Err(error) => Err(QueryError::of_stream(&name, error).into()),
        }
    }

    /// Lists the subjects that hold a request.
    async fn queued_subjects(&self) -> Result<Vec<String>, QueryError> {
        let name = self.subjects.builds_stream();
        let refused = |error: async_nats::Error| QueryError::of_stream(&name, error);
        let stream = self.jetstream.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| refused(error.into()))?;
        let info = stream.info_builder().subjects(self.subjects.builds()).fetch().await;
        let subjects = info.map_err(|error| refused(error.into()))?;
        let subjects: Result<Vec<(String, usize)>, _> = subjects.try_collect().await;
        let subjects = subjects.map_err(|error| refused(error.into()))?;
        Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
    }

    /// Reads every message of a stream, those that change meanwhile included.
    async fn read_all(
        &self,
        stream: &str,
        filter: &str,
        mut each: impl FnMut(Message) + Send,
    ) -> Result<(), ReadError> {
        let mut reader = Reader::open(self, stream, filter, DeliverPolicy::All).await?;
        for _ in 0..MAX_ROUNDS {
            let end = reader.end().await?;
            while reader.position() < end {
                match tokio::time::timeout(SILENCE, reader.next_batch(BATCH)).await {
                    Ok(batch) => batch?.into_iter().for_each(&mut each),
                    // The last message was removed meanwhile.
                    Err(_elapsed) if reader.is_at_end().await? => break,
                    Err(_elapsed) => {}
                }
            }
            if reader.is_at_end().await? {
                break;
            }
        }
        Ok(())
    }
}
