// SPDX-License-Identifier: Apache-2.0

//! The durable steps of one submission, from the checked request to its answer.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::{Build, BuildId, Digest, ProjectName, Timestamp};
use slipway_queue::failpoint;
use slipway_queue::protocol::accept::{self as protocol, Submitted};
use slipway_queue::publish::Sent;
use slipway_queue::{Creating, RecordError};
use tokio::time::Instant;

use super::check::{Checked, gone};
use super::{AcceptError, Accepted, Acceptor, SubmissionHeaders};
use crate::builds::find::FindError;
use crate::builds::supersede::supersede_later;
use crate::events::projection::ProjectionError;
use crate::intake::artifacts::CONFIRMED_WITHIN;

/// How long a request waits for a projection that has just been opened. A dispatcher that kept its
/// projection can tell within milliseconds of starting; one that rebuilds it may need minutes, for
/// which no client is kept waiting.
const KEY_FOLDED_WITHIN: Duration = Duration::from_secs(5);

/// A request on its way to become a build.
pub(super) struct Acceptance {
    acceptor: Arc<Acceptor>,
    project: ProjectName,
    /// The id of the build.
    id: BuildId,
    /// Whether the id comes from an idempotency key, so that the build may already exist.
    has_key: bool,
    /// Until when it may wait for the projection.
    patient_until: Instant,
    /// The digest of the submitted document.
    digest: Digest,
    traceparent: Option<Arc<str>>,
}

/// A submission before its first durable step.
pub(super) enum Prepared {
    /// This dispatcher knows no build of this id. Its artifact was seen then.
    New(Box<Build>, Instant),
    /// The key was used: the state of that build is the answer.
    Known,
    /// It is refused, unless its key names a build: that is the answer, whatever has changed since.
    Refused(AcceptError),
}

/// The artifacts of a submission, and when the store was first asked for one of them.
pub(super) struct Artifacts {
    digests: Vec<Digest>,
    seen: Instant,
}

/// A submission after its first durable step.
pub(super) enum Started {
    Sent(Box<Creating>, Artifacts),
    Known,
    Refused(AcceptError),
}

impl Acceptance {
    pub(super) fn new(
        acceptor: &Arc<Acceptor>,
        project: ProjectName,
        digest: Digest,
        headers: &SubmissionHeaders,
    ) -> Self {
        let id = match &headers.key {
            Some(key) => BuildId::for_idempotency_key(&project, key),
            None => BuildId::fresh(),
        };
        let (has_key, traceparent) = (headers.key.is_some(), headers.traceparent.clone());
        let patient_until = Instant::now() + KEY_FOLDED_WITHIN;
        Self {
            acceptor: Arc::clone(acceptor),
            project,
            id,
            has_key,
            patient_until,
            digest,
            traceparent,
        }
    }

    pub(super) fn id(&self) -> BuildId {
        self.id
    }

    pub(super) fn project(&self) -> &ProjectName {
        &self.project
    }

    /// Checks whether a checked request may become a build. A key with a live record is found when
    /// the record is created. A key whose record has expired (72 h) is found only here.
    pub(super) async fn prepare(&self, checked: Result<Checked, AcceptError>) -> Prepared {
        let Checked { request, seen } = match checked {
            Ok(checked) => checked,
            Err(error) => return Prepared::Refused(error),
        };
        if self.has_key {
            match self.is_known().await {
                Ok(false) => {}
                Ok(true) => return Prepared::Known,
                Err(error) => return Prepared::Refused(error),
            }
        }
        if let Err(error) = self.can_store() {
            return Prepared::Refused(error);
        }
        let build = Build::accepted(request, self.digest, Timestamp::now());
        Prepared::New(Box::new(build), seen)
    }

    /// Returns whether the key names a build that the projection knows. While the projection is
    /// rebuilt, an unknown build may be one whose record has expired, and there is no answer.
    async fn is_known(&self) -> Result<bool, AcceptError> {
        let acceptor = &self.acceptor;
        // Before the question and not after it, because events are folded meanwhile.
        let mut is_sure = acceptor.feed.knows_past();
        loop {
            match acceptor.existence.knows(&self.project, self.id).await {
                Some(true) => return Ok(true),
                Some(false) if is_sure => return Ok(false),
                Some(false) => {}
                None => return Err(FindError::Projection(ProjectionError::CalledOff).into()),
            }
            if acceptor.builds.record(&self.project, self.id).await?.is_some() {
                return Ok(true);
            }
            let known =
                tokio::time::timeout_at(self.patient_until, acceptor.feed.past_known()).await;
            known.map_err(|_elapsed| AcceptError::Folding)?;
            is_sure = true;
        }
    }

    /// Sends the build's record. The order of the calls is the order of acceptance.
    pub(super) async fn start(&self, prepared: Prepared) -> Started {
        match prepared {
            Prepared::New(build, seen) => {
                failpoint("accept.checked");
                let digests = build.request.artifacts().map(|artifact| artifact.digest).collect();
                let creating = self.acceptor.queue.records().begin_create(*build).await;
                Started::Sent(Box::new(creating), Artifacts { digests, seen })
            }
            Prepared::Known => Started::Known,
            Prepared::Refused(error) => Started::Refused(error),
        }
    }

    /// Takes the remaining steps and returns the result.
    pub(super) async fn finish(&self, started: Started) -> Result<Accepted, AcceptError> {
        let (creating, artifacts) = match started {
            Started::Sent(creating, artifacts) => (*creating, artifacts),
            Started::Known => return self.earlier_or(RecordError::Conflict.into()).await,
            Started::Refused(error) => return self.earlier_or(error).await,
        };
        let queue = &self.acceptor.queue;
        let may_store = || self.can_store().is_ok();
        let confirmed = self.are_still_there(&artifacts);
        match self.submitted().accept(queue, creating, may_store, confirmed).await {
            Ok(accepted) => Ok(self.announce(accepted)),
            Err(protocol::AcceptError::Unconfirmed) => {
                Err(AcceptError::Invalid(artifacts.digests.into_iter().map(gone).collect()))
            }
            Err(protocol::AcceptError::Create(error)) => self.in_history(error.into()).await,
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Returns whether the artifacts are there, now that the build's record is. If the store was
    /// asked a moment ago, a collector that removes one has yet to look for records.
    async fn are_still_there(&self, artifacts: &Artifacts) -> bool {
        // Boxed, because nearly all submissions are faster.
        artifacts.seen.elapsed() < CONFIRMED_WITHIN || Box::pin(self.look_again(artifacts)).await
    }

    async fn look_again(&self, artifacts: &Artifacts) -> bool {
        for digest in &artifacts.digests {
            match self.acceptor.store.record(&self.project, *digest).await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, %digest, "an artifact could not be looked for again");
                    return false;
                }
            }
        }
        true
    }

    fn submitted(&self) -> Submitted<'_> {
        Submitted {
            project: &self.project,
            build: self.id,
            has_key: self.has_key,
            digest: self.digest,
            traceparent: self.traceparent.as_deref(),
        }
    }

    /// Refuses a request at once that could only run into deadlines.
    fn can_store(&self) -> Result<(), AcceptError> {
        if !self.acceptor.queue.is_connected() {
            return Err(AcceptError::Unavailable("the connection to NATS is lost".into()));
        }
        if self.acceptor.readiness.is_unwritable() {
            return Err(AcceptError::Unwritable);
        }
        Ok(())
    }

    /// Answers with the build that the key already names, or with the error if there is none.
    async fn earlier_or(&self, error: AcceptError) -> Result<Accepted, AcceptError> {
        if !self.has_key {
            return Err(error);
        }
        let may_store = || self.can_store().is_ok();
        match self.submitted().earlier(&self.acceptor.queue, may_store).await {
            Ok(Some(accepted)) => Ok(self.announce(accepted)),
            Ok(None) => self.in_history(error).await,
            Err(error) => Err(self.refusal(error)),
        }
    }

    /// Answers with a build of the key that has no record any more, since that lives for 72 h after
    /// its last change, and the key for as long as the build; with the error if there is none.
    async fn in_history(&self, error: AcceptError) -> Result<Accepted, AcceptError> {
        if !self.has_key {
            return Err(error);
        }
        let acceptor = &self.acceptor;
        let is_sure = acceptor.feed.knows_past();
        let folded = acceptor.builds.folded(&self.project, self.id).await;
        match folded.map_err(FindError::from)? {
            Some(build) => protocol::same_submission(build, self.digest)
                .map(Accepted::Before)
                .map_err(|error| self.refusal(error)),
            None if is_sure => Err(error),
            None => Err(AcceptError::Folding),
        }
    }

    fn refusal(&self, error: protocol::AcceptError) -> AcceptError {
        match error {
            protocol::AcceptError::KeyReused(build) => AcceptError::KeyReused(build),
            protocol::AcceptError::Create(error) | protocol::AcceptError::Read(error) => {
                error.into()
            }
            protocol::AcceptError::Publish(error) => error.into(),
            protocol::AcceptError::Unwritable => {
                self.can_store().err().unwrap_or(AcceptError::Unwritable)
            }
            // Only a record of this submission is confirmed, and `finish` names the artifact.
            protocol::AcceptError::Unconfirmed => AcceptError::NotFound(self.id),
        }
    }

    /// Sees that the build's `build.queued`, if it was sent, is stored, and then has older builds
    /// superseded. The build is accepted, so the client waits for neither.
    fn announce(&self, accepted: protocol::Accepted<Sent>) -> Accepted {
        let protocol::Accepted { build, is_new, queued } = accepted;
        if let Some(queued) = queued {
            let superseding =
                build.request.supersede_key.is_some().then(|| Box::new(build.clone()));
            let announcer = self.acceptor.announcer.clone();
            self.acceptor.announcer.announce_later(queued, move |sequence| {
                if let Some(build) = superseding {
                    supersede_later(&announcer, &build, sequence);
                }
            });
        }
        if is_new { Accepted::Now(build) } else { Accepted::Before(build) }
    }
}
