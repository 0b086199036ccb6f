// SPDX-License-Identifier: Apache-2.0

//! One attempt at a build: claim it, run the stages, commit the outcome, acknowledge.
//!
//! Each step that others can see is a compare-and-set of the build's record under the epoch that
//! this attempt claimed, so that an attempt whose lease has passed to another can do no harm
//! (design section 4). What ends an attempt is one of the variants of [`End`]; only
//! [`Attempt::settle`] acts on it.

mod claim;
mod settle;
mod tag;

use std::sync::Arc;
use std::time::Duration;

use slipway_proto::event::Event;
use slipway_proto::outcome::Image;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildRequest, Change, Failure, Reason, Stage, Timestamp, WorkerId};
use slipway_queue::delivery::{Answer, Delivery};
use slipway_queue::publish::Sent;
use slipway_queue::{Queue, Record, RecordError, failpoint, is_off};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::StageError;
use crate::lease::{EXTEND_EVERY, Lease};
use crate::log::BuildLog;
use crate::pipeline::{self, Observer};
use crate::running::Running;
use crate::stages::{ImageStages, Made};
use claim::Claim;
use slipway_registry::Liveness;

/// What attempts share.
#[derive(Clone)]
pub(crate) struct Attempts {
    /// The queue.
    pub(crate) queue: Queue,
    /// The way from a request to its image.
    pub(crate) stages: Arc<dyn ImageStages>,
    /// This worker.
    pub(crate) worker: WorkerId,
    /// The builds this worker runs now.
    pub(crate) running: Running,
    /// Cancelled when the worker must give back what it holds.
    pub(crate) hand_back: CancellationToken,
}

/// How an attempt ended.
enum End {
    /// The record says succeeded, with this image.
    Succeeded(Box<Image>),
    /// A stage failed.
    Failed(StageError),
    /// The worker must stop and gives the build back.
    HandedBack,
    /// Somebody else ended the build, as a cancellation does; the record says how.
    CalledOff(Box<Record>),
    /// The lease ran out, or somebody else holds the build; nothing may be said about it any more.
    Lost,
}

impl Attempts {
    /// Handles a delivered message to its end. Whatever happens, the message is acknowledged,
    /// given back with a delay, or left to be delivered again when its lease ends.
    pub(crate) async fn handle(&self, message: Delivery) {
        let delivered = match message.read() {
            Ok(delivered) => delivered,
            Err(error) => return settle::bury(&self.queue, &message, &error).await,
        };
        let build = delivered.request.build;
        let Some(registered) = self.running.register(build) else {
            // The lease was thought lost, and the build came back to the worker that still works
            // on it: extend, and let the attempt go on.
            settle::answer(&message, Answer::Extend).await;
            return;
        };
        let message = Arc::new(message);
        let lease = Lease::keep(Arc::clone(&message));
        match Box::pin(self.claim(&delivered, &message, &lease)).await {
            Ok(Claim::Claimed(claimed)) => {
                let (record, started) = *claimed;
                let request = Arc::new(delivered.request);
                let log = BuildLog::start(
                    self.queue.clone(),
                    request.project.clone(),
                    request.build,
                    record.build.state.epoch,
                );
                let attempt = Attempt {
                    shared: self.clone(),
                    request,
                    message,
                    lease,
                    epoch: record.build.state.epoch,
                    record,
                    log,
                    started,
                    notice: registered.notice(),
                    liveness: Liveness::default(),
                };
                Box::pin(attempt.run()).await;
            }
            Ok(Claim::Settled) => {}
            // Left alone, the message comes back when its lease ends.
            Err(error) => tracing::warn!(%build, %error, "could not claim a build"),
        }
    }
}

struct Attempt {
    shared: Attempts,
    request: Arc<BuildRequest>,
    message: Arc<Delivery>,
    lease: Lease,
    record: Record,
    /// The epoch it claimed.
    epoch: Epoch,
    log: BuildLog,
    /// The event that this attempt started, if it was sent.
    started: Option<Sent>,
    /// Says when to look whether the build was called off.
    notice: Arc<Notify>,
    liveness: Liveness,
}

/// An image that stands in the registry by digest, under a record that says publishing.
struct PushedImage {
    made: Made,
    record: Record,
}

/// Passes what the stages report to log and events.
struct Reporter<'a> {
    attempt: &'a Attempt,
    stages: tokio::sync::mpsc::UnboundedSender<Stage>,
}

impl Observer for Reporter<'_> {
    fn stage(&self, stage: Stage) {
        let _over = self.attempt.liveness.touch();
        // Four at most in an attempt, so the channel is bounded by its use.
        let _receiver_gone = self.stages.send(stage);
    }

    fn line(&self, line: &str) {
        let _over = self.attempt.liveness.touch();
        self.attempt.log.line(line);
    }

    fn liveness(&self) -> Liveness {
        self.attempt.liveness.clone()
    }

    fn holds(&self) -> bool {
        self.attempt.lease.holds()
    }
}

impl Attempt {
    async fn run(mut self) {
        let (worker, state) = (&self.shared.worker, &self.record.build.state);
        self.log.line(&format!(
            "attempt {} of {} on worker {worker} (build {}, epoch {})",
            state.attempt, self.request.max_attempts, self.request.build, state.epoch
        ));
        let limit = Duration::from_secs(self.request.timeout_s.into());
        let hand_back = self.shared.hand_back.clone();
        let stall = Duration::from_secs(self.request.stall_timeout_s.into());
        let outcome = tokio::select! {
            outcome = self.work() => outcome,
            () = tokio::time::sleep(limit) => Err(End::Failed(self.too_long())),
            () = self.liveness.stalled(stall) => Err(End::Failed(self.stalled())),
            record = self.called_off() => Err(End::CalledOff(record)),
            () = self.lease.lost() => Err(End::Lost),
            () = hand_back.cancelled() => Err(End::HandedBack),
        };
        // What still works on it in a thread of its own ends now.
        self.liveness.stop();
        let end = match outcome {
            Ok(pushed) => Box::pin(self.publish(*pushed)).await,
            Err(end) => end,
        };
        Box::pin(self.settle(end)).await;
    }

    /// Writes the tags and records the success. Nothing interrupts this: who has begun to write a
    /// tag must look afterwards whether it was still its own.
    async fn publish(&mut self, pushed: PushedImage) -> End {
        let PushedImage { made: Made { image, pushed, stages }, record } = pushed;
        self.record = record;
        let tagged = match self.tag(&image).await {
            Ok(tagged) => tagged,
            Err(end) => return end,
        };
        failpoint("commit.tagged");
        let image = Image {
            references: tagged.written,
            superseded: tagged.superseded,
            ..pipeline::outcome(&self.request, &image, &pushed, stages.finish())
        };
        self.commit(image).await
    }

    fn too_long(&self) -> StageError {
        StageError::permanent(Failure::new(
            Reason::DeadlineExceeded,
            format!(
                "the attempt took longer than {} s; raise timeout_s if the build needs more",
                self.request.timeout_s
            ),
        ))
    }

    fn stalled(&self) -> StageError {
        let message = format!(
            "nothing moved for {} s: a registry or store does not answer; raise stall_timeout_s if it needs longer",
            self.request.stall_timeout_s
        );
        let failure = Failure::new(Reason::StageStalled, message);
        StageError { transient: true, ..StageError::permanent(failure) }
    }

    /// Resolves when somebody else has ended the build. Looks when told to, and as often as the
    /// lease is extended: words to workers can be lost.
    async fn called_off(&self) -> Box<Record> {
        let request = &self.request;
        loop {
            tokio::select! {
                () = self.notice.notified() => {}
                () = tokio::time::sleep(EXTEND_EVERY) => {}
            }
            let found = self.shared.queue.records().get(&request.project, request.build).await;
            match found {
                Ok(Some(record)) if record.build.state.is_finished() => return Box::new(record),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a build's record could not be read"),
            }
        }
    }

    /// Runs the stages up to the tags, which are written under `Publishing`.
    async fn work(&self) -> Result<Box<PushedImage>, End> {
        let (stages_seen, stages_entered) = tokio::sync::mpsc::unbounded_channel();
        let reporter = Reporter { attempt: self, stages: stages_seen };
        let events = self.send_stage_events(stages_entered);
        let stages = async {
            let outcome = self.stages(&reporter).await;
            drop(reporter);
            outcome
        };
        let (outcome, ()) = tokio::join!(stages, events);
        outcome
    }

    async fn stages(&self, attempt: &dyn Observer) -> Result<Box<PushedImage>, End> {
        let made = self.shared.stages.make(&self.request, attempt).await;
        if made.is_ok() {
            failpoint("commit.pushed");
        }
        self.check_lease()?;
        let made = made.map_err(End::Failed)?;
        let epoch = self.record.build.state.epoch;
        let record = self.change(&self.record, &Change::Publish { epoch }).await?;
        failpoint("commit.publishing");
        Ok(Box::new(PushedImage { made, record }))
    }

    async fn send_stage_events(&self, mut stages: tokio::sync::mpsc::UnboundedReceiver<Stage>) {
        while let Some(stage) = stages.recv().await {
            let build = &self.record.build;
            let event = Event::stage(build, &self.shared.worker, stage, Timestamp::now());
            self.shared.queue.tell_event(&event).await;
        }
    }

    fn check_lease(&self) -> Result<(), End> {
        if self.lease.holds() { Ok(()) } else { Err(End::Lost) }
    }

    /// Changes the record under this attempt's epoch.
    async fn change(&self, from: &Record, change: &Change) -> Result<Record, End> {
        let Ok(next) = from.build.apply(change, Timestamp::now()) else { return Err(End::Lost) };
        match self.shared.queue.records().update(next, from.revision).await {
            Ok(record) => Ok(record),
            Err(RecordError::Conflict) if is_off("epoch-fencing") => self.overwrite(change).await,
            // Whoever changed it holds it now, or has called it off.
            Err(RecordError::Conflict) => Err(End::Lost),
            Err(error) => {
                let message = format!("the build's record could not be written: {error}");
                Err(End::Failed(StageError {
                    failure: Failure::new(Reason::LeaseLost, message),
                    transient: true,
                    charged: false,
                    retry_after: None,
                }))
            }
        }
    }

    /// What tests put in the place of the fence: this attempt's view over whatever stands there.
    async fn overwrite(&self, change: &Change) -> Result<Record, End> {
        let records = self.shared.queue.records();
        let request = &self.request;
        let now = records.get(&request.project, request.build).await;
        let (Ok(Some(now)), Ok(next)) = (now, self.record.build.apply(change, Timestamp::now()))
        else {
            return Err(End::Lost);
        };
        records.update(next, now.revision).await.map_err(|_| End::Lost)
    }

    /// Records the success of a build whose tags are written. As long as the lease holds it is
    /// tried again: the image is there, and only the record does not say so yet.
    async fn commit(&mut self, image: Image) -> End {
        let epoch = self.record.build.state.epoch;
        let change = Change::Succeed { epoch, image: Box::new(image.clone()) };
        while self.lease.holds() {
            match self.change(&self.record, &change).await {
                Ok(record) => {
                    self.record = record;
                    return End::Succeeded(Box::new(image));
                }
                Err(End::Failed(_)) => tokio::time::sleep(Duration::from_millis(250)).await,
                Err(end) => return end,
            }
        }
        End::Lost
    }
}
