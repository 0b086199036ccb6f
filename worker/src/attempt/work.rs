// SPDX-License-Identifier: Apache-2.0

//! What one attempt does beside the queue: it makes the image, writes tags, keeps the log, and finds
//! out what ends it early.

use std::sync::Arc;
use std::time::Duration;

use slipway_fault::{Backoff, chain};
use slipway_proto::event::Event;
use slipway_proto::outcome::Image;
use slipway_proto::{BuildRequest, Digest, Failure, Reason, Reference, Stage, Timestamp};
use slipway_queue::Record;
use slipway_queue::protocol::attempt::{AttemptFailure, End, Tagged, Work, called_off};
use tokio::sync::{Notify, mpsc};

use super::Attempts;
use crate::failure::StageError;
use crate::lease::{EXTEND_EVERY, Lease, only_while};
use crate::liveness::Liveness;
use crate::log::BuildLog;
use crate::observer::Observer;
use crate::pipeline;
use crate::stages::Made;

/// How long one write of a tag may take. Only the end of the lease interrupts it besides, and a
/// registry that takes longer has not understood it.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// The delay of the next attempt after failed ones in a row, spread so that builds that failed
/// together do not come back together. The longest is reached by builds that a registry limits for
/// hours, since their attempts are not charged: a shorter one would run into what registries call
/// abuse, a longer one would keep a build waiting when the limit is over.
const RETRY_DELAY: Backoff = Backoff::constant(1_000, 2, 300_000, 40);

/// The work of one attempt at an image.
pub(super) struct ImageWork {
    pub(super) shared: Attempts,
    pub(super) request: Arc<BuildRequest>,
    pub(super) lease: Lease,
    /// Gone once it has its last line.
    pub(super) log: Option<BuildLog>,
    /// Signals that the build may have been cancelled.
    pub(super) notice: Arc<Notify>,
    pub(super) liveness: Liveness,
}

/// Passes the reports of the stages to log and events.
struct Reporter<'a> {
    work: &'a ImageWork,
    stages: mpsc::UnboundedSender<Stage>,
}

impl Observer for Reporter<'_> {
    fn stage(&self, stage: Stage) {
        let _over = self.work.liveness.touch();
        // At most four in an attempt, so the channel is bounded by its use.
        let _receiver_gone = self.stages.send(stage);
    }

    fn line(&self, line: &str) {
        let _over = self.work.liveness.touch();
        self.work.line(line);
    }

    fn liveness(&self) -> Liveness {
        self.work.liveness.clone()
    }

    fn holds(&self) -> bool {
        self.work.lease.holds()
    }
}

impl ImageWork {
    /// Writes the first line of the log.
    pub(super) fn begin(&self, claimed: &Record) {
        let (worker, state) = (&self.shared.worker, &claimed.build.state);
        self.line(&format!(
            "attempt {} of {} on worker {worker} (build {}, epoch {})",
            state.attempt, self.request.max_attempts, self.request.build, state.epoch
        ));
    }

    fn too_long(&self) -> AttemptFailure {
        let failure = Failure::new(
            Reason::DeadlineExceeded,
            format!(
                "the attempt took longer than {} s; raise timeout_s if the build needs more",
                self.request.timeout_s
            ),
        );
        StageError::permanent(failure).into()
    }

    fn stalled(&self) -> AttemptFailure {
        let message = format!(
            "no progress for {} s: a registry or store does not answer; raise stall_timeout_s if it needs longer",
            self.request.stall_timeout_s
        );
        let failure = Failure::new(Reason::StageStalled, message);
        AttemptFailure { transient: true, ..StageError::permanent(failure).into() }
    }

    /// Resolves when somebody else has ended the build. Looks when it is notified, and as often as
    /// the lease is extended: messages to workers can be lost.
    async fn ended_by_others(&self) -> Box<Record> {
        loop {
            tokio::select! {
                () = self.notice.notified() => {}
                () = tokio::time::sleep(EXTEND_EVERY) => {}
            }
            match called_off(&self.shared.queue, &self.request).await {
                Ok(Some(record)) => return record,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = chain(&error), "a build's record could not be read");
                }
            }
        }
    }

    async fn send_stage_events(
        &self,
        claimed: &Record,
        mut stages: mpsc::UnboundedReceiver<Stage>,
    ) {
        while let Some(stage) = stages.recv().await {
            let worker = &self.shared.worker;
            let event = Event::stage(&claimed.build, worker, stage, Timestamp::now());
            self.shared.queue.tell_event(&event).await;
        }
    }
}

impl Work for ImageWork {
    type Made = Made;

    fn holds_lease(&self) -> bool {
        self.lease.holds()
    }

    fn ended(&self, end: &End) {
        self.shared.status.count_ended(end);
    }

    async fn make(&self, claimed: &Record) -> Result<Made, AttemptFailure> {
        let (stages_seen, stages_entered) = mpsc::unbounded_channel();
        let reporter = Reporter { work: self, stages: stages_seen };
        let events = self.send_stage_events(claimed, stages_entered);
        let stages = async {
            let made = self.shared.stages.make(&self.request, &reporter).await;
            drop(reporter);
            made
        };
        let (made, ()) = tokio::join!(stages, events);
        made.map_err(AttemptFailure::from)
    }

    async fn interrupted(&self) -> End {
        let limit = Duration::from_secs(self.request.timeout_s.into());
        let stall = Duration::from_secs(self.request.stall_timeout_s.into());
        tokio::select! {
            () = tokio::time::sleep(limit) => End::Failed(self.too_long()),
            () = self.liveness.stalled(stall) => End::Failed(self.stalled()),
            record = self.ended_by_others() => End::CalledOff(record),
            () = self.lease.lost() => End::Lost,
            () = self.shared.hand_back.cancelled() => End::HandedBack,
        }
    }

    fn stop(&self) {
        self.liveness.stop();
    }

    fn digest(&self, made: &Made) -> Digest {
        made.product.digest()
    }

    async fn put_tag(&self, reference: &Reference, made: &Made, writer: &str) -> Result<(), End> {
        let Some(tagger) = self.shared.stages.tagger() else { return Ok(()) };
        let document = made.product.document();
        let put = tagger.tag(&self.request, reference, &document, writer);
        // A worker that slept through a broken connection would write again.
        let put = only_while(|| self.lease.holds(), put);
        match tokio::time::timeout(WRITTEN_WITHIN, put).await {
            Ok(Some(written)) => written.map_err(|error| End::Failed(error.into())),
            Ok(None) => Err(End::Lost),
            Err(_elapsed) => {
                let message = format!("the registry did not write the tag {reference} in time");
                let failure = Failure::new(Reason::PushImageFailed, message);
                let error = StageError { transient: true, ..StageError::permanent(failure) };
                Err(End::Failed(error.into()))
            }
        }
    }

    fn outcome(&self, made: Made, tagged: Tagged) -> Image {
        let Made { product, stages } = made;
        Image {
            references: tagged.written,
            superseded: tagged.superseded,
            ..pipeline::outcome(&self.request, &product, stages.finish())
        }
    }

    fn retry_delay(&self, failures: u32) -> Duration {
        RETRY_DELAY.pause(failures, &mut rand::rng())
    }

    fn line(&self, line: &str) {
        if let Some(log) = &self.log {
            log.line(line);
        }
    }

    async fn finish_log(&mut self, last_line: &str) {
        if let Some(log) = self.log.take() {
            log.finish(last_line).await;
        }
    }
}
