// SPDX-License-Identifier: Apache-2.0

//! The durable steps of one submission, from a request that was checked to its answer.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::event::Event;
use slipway_proto::{Build, BuildId, BuildRequest, Digest, Phase, ProjectName, Timestamp};
use slipway_queue::{Creating, PublishError, Record, RecordError, failpoint};
use tokio::time::Instant;

use super::{AcceptError, Accepted, Beside};
use crate::app::App;
use crate::builds::announce::announce_later;
use crate::builds::existence::Known;
use crate::builds::find::FindError;
use crate::builds::supersede::supersede_later;
use crate::events::projection::ProjectionError;

/// How long a request waits for a projection that has just been opened. Of one that was kept, the
/// first events that are read say within milliseconds that it knows enough; one that is made anew
/// may take minutes, for which nobody is kept waiting.
const FOLDING: Duration = Duration::from_secs(5);

/// A request on its way to become a build.
pub(super) struct Call {
    app: Arc<App>,
    project: ProjectName,
    /// The id that the build has, or will have.
    id: BuildId,
    /// Whether the id comes from an idempotency key, so that there may be a build of it.
    keyed: bool,
    /// Until when it waits for the projection.
    patient_until: Instant,
    /// The digest of what was asked for.
    digest: Digest,
    traceparent: Option<Arc<str>>,
}

/// A submission before its first durable step.
pub(super) enum Prepared {
    /// There is no build of this id as far as this dispatcher knows.
    New(Box<Build>),
    /// The key was used: how that build stands says the answer.
    Known,
    /// It is refused, unless its key names a build, which stands whatever has changed since.
    Refused(AcceptError),
}

/// A submission whose record was sent, if it is to have one.
pub(super) enum Begun {
    Sent(Box<Creating>),
    Known,
    Refused(AcceptError),
}

impl Call {
    pub(super) fn new(
        app: &Arc<App>,
        project: ProjectName,
        digest: Digest,
        beside: &Beside,
    ) -> Self {
        let id = match &beside.key {
            Some(key) => BuildId::for_idempotency_key(&project, key),
            None => BuildId::fresh(),
        };
        let (keyed, traceparent) = (beside.key.is_some(), beside.traceparent.clone());
        let patient_until = Instant::now() + FOLDING;
        Self { app: Arc::clone(app), project, id, keyed, patient_until, digest, traceparent }
    }

    pub(super) fn id(&self) -> BuildId {
        self.id
    }

    pub(super) fn project(&self) -> &ProjectName {
        &self.project
    }

    /// Looks whether a request that was checked may become a build. A key that names a live record
    /// is found when that is created; one whose record's 72 h are over, only here.
    pub(super) async fn prepare(&self, checked: Result<BuildRequest, AcceptError>) -> Prepared {
        let request = match checked {
            Ok(request) => request,
            Err(error) => return Prepared::Refused(error),
        };
        if self.keyed {
            match self.is_known().await {
                Ok(false) => {}
                Ok(true) => return Prepared::Known,
                Err(error) => return Prepared::Refused(error),
            }
        }
        if let Err(error) = self.can_store() {
            return Prepared::Refused(error);
        }
        Prepared::New(Box::new(Build::accepted(request, self.digest, Timestamp::now())))
    }

    /// Returns whether the key names a build that the projection knows. While that is folded anew a
    /// build that it does not know may be one whose record is over; then nobody can tell.
    async fn is_known(&self) -> Result<bool, AcceptError> {
        let app = &self.app;
        // Before the question, not behind it: events are folded meanwhile.
        let mut is_sure = app.feed.knows_past();
        loop {
            match Known::is(app, &self.project, self.id).await {
                Some(true) => return Ok(true),
                Some(false) if is_sure => return Ok(false),
                Some(false) => {}
                None => return Err(FindError::Projection(ProjectionError::CalledOff).into()),
            }
            if app.builds.record(&self.project, self.id).await?.is_some() {
                return Ok(true);
            }
            let known = tokio::time::timeout_at(self.patient_until, app.feed.past_known()).await;
            known.map_err(|_elapsed| AcceptError::Folding)?;
            is_sure = true;
        }
    }

    /// Sends the build's record. The order of these calls is the order of acceptance.
    pub(super) async fn begin(&self, prepared: Prepared) -> Begun {
        match prepared {
            Prepared::New(build) => {
                Begun::Sent(Box::new(self.app.queue.records().begin_create(*build).await))
            }
            Prepared::Known => Begun::Known,
            Prepared::Refused(error) => Begun::Refused(error),
        }
    }

    /// Takes the other steps, and says what became of it.
    pub(super) async fn finish(&self, begun: Begun) -> Result<Accepted, AcceptError> {
        let creating = match begun {
            Begun::Sent(creating) => *creating,
            Begun::Known => return self.earlier_or(RecordError::Conflict.into()).await,
            Begun::Refused(error) => return self.earlier_or(error).await,
        };
        match self.app.queue.records().finish_create(creating).await {
            Ok(record) => self.enqueue(record).await.map(Accepted::Now),
            Err(error) => self.earlier_or(error.into()).await,
        }
    }

    /// Queues the build of a record that was created.
    async fn enqueue(&self, record: Record) -> Result<Build, AcceptError> {
        let app = &self.app;
        failpoint("accept.created");
        if let Err(error) = app.queue.enqueue(&record.build, self.traceparent.as_deref()).await {
            if !matches!(error, PublishError::Unavailable(_)) {
                withdraw(app, &record).await;
            }
            return Err(error.into());
        }
        failpoint("accept.queued");
        tell(app, &record.build).await;
        failpoint("accept.announced");
        Ok(record.build)
    }

    /// Refuses at once what could only run into deadlines.
    fn can_store(&self) -> Result<(), AcceptError> {
        if !self.app.queue.is_connected() {
            return Err(AcceptError::Unavailable("the connection to NATS is lost".into()));
        }
        if self.app.readiness.is_unwritable() {
            return Err(AcceptError::Unwritable);
        }
        Ok(())
    }

    /// Answers with the build that the key named before; with the error if there is none.
    async fn earlier_or(&self, error: AcceptError) -> Result<Accepted, AcceptError> {
        if !self.keyed {
            return Err(error);
        }
        self.earlier().await?.map(Accepted::Before).ok_or(error)
    }

    /// Finds the build that the key named before, and completes it if it was left half accepted.
    async fn earlier(&self) -> Result<Option<Build>, AcceptError> {
        let (app, project, id) = (&self.app, &self.project, self.id);
        let Some(record) = app.builds.record(project, id).await? else {
            // The record lives for 72 h after its last change, and the key for as long as the build.
            let is_sure = app.feed.knows_past();
            return match app.builds.folded(project, id).await.map_err(FindError::from)? {
                Some(build) => same(build, self.digest).map(Some),
                None if is_sure => Ok(None),
                None => Err(AcceptError::Folding),
            };
        };
        let build = same(record.build, self.digest)?;
        let untouched = build.state.epoch == 0 && matches!(build.state.phase, Phase::Queued { .. });
        if untouched {
            self.can_store()?;
            // Refused as already queued in the common case, which is what is wanted.
            app.queue.enqueue(&build, self.traceparent.as_deref()).await?;
            tell(app, &build).await;
        }
        Ok(Some(build))
    }
}

fn same(build: Build, digest: Digest) -> Result<Build, AcceptError> {
    if build.submission == digest {
        return Ok(build);
    }
    Err(AcceptError::KeyReused(build.request.build))
}

/// Sends `build.queued`, and has older builds superseded once it is stored. The build stands in the
/// queue and is accepted, whatever happens to its announcement, so neither a failure nor the wait
/// for it is the client's.
async fn tell(app: &Arc<App>, build: &Build) {
    let sent = app.queue.send_event(Event::queued(build)).await;
    let superseding = build.request.supersede_key.is_some().then(|| Box::new(build.clone()));
    let superseder = Arc::clone(app);
    announce_later(app, sent, move |sequence| {
        if let Some(build) = superseding {
            supersede_later(&superseder, &build, sequence);
        }
    });
}

/// Brings back the record of a build that somebody else, who repeated the request, got queued just
/// before it was taken back.
async fn restore(app: &App, record: &Record) {
    let request = &record.build.request;
    if !matches!(app.queue.holds(request).await, Ok(true)) {
        return;
    }
    // A worker that was faster has made it anew from the message.
    if let Err(error) = app.queue.records().create(record.build.clone()).await {
        tracing::debug!(build = %request.build, error = chain(&error), "a record was not restored");
    }
}

/// Takes back the record of a build that was not queued.
async fn withdraw(app: &App, record: &Record) {
    match app.queue.records().delete(record).await {
        Ok(()) => restore(app, record).await,
        // Somebody has changed the build: it is theirs now.
        Err(RecordError::Conflict) => {}
        Err(error) => {
            let build = record.build.request.build;
            tracing::warn!(%build, error = chain(&error), "a refused build left its record");
        }
    }
}
