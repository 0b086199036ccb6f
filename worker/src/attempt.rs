// SPDX-License-Identifier: Apache-2.0

//! One attempt at a build: claim it, run the stages, commit the outcome, acknowledge.
//!
//! The protocol is [`slipway_queue::protocol`]. What is here is a worker's own: the lease, the
//! builds it runs, the way from a request to an image, the log, and what ends an attempt early.

mod work;

use std::sync::Arc;

use slipway_fault::chain;
use slipway_proto::{BuildRequest, WorkerId};
use slipway_queue::Queue;
use slipway_queue::delivery::{Answer, Delivery};
use slipway_queue::protocol::attempt::{Attempt, AttemptFailure, Registry, Worker};
use slipway_queue::protocol::claim::Claim;
use slipway_queue::tag::TagOwner;
use tokio_util::sync::CancellationToken;

use crate::failure::StageError;
use crate::lease::Lease;
use crate::liveness::Liveness;
use crate::log::BuildLog;
use crate::running::Running;
use crate::stages::ImageStages;
use crate::status::Status;
use work::ImageWork;

/// The state that attempts share.
#[derive(Clone)]
pub(crate) struct Attempts {
    /// The queue.
    pub(crate) queue: Queue,
    /// The stages from a request to its image.
    pub(crate) stages: Arc<dyn ImageStages>,
    /// This worker.
    pub(crate) worker: WorkerId,
    /// The builds this worker runs now.
    pub(crate) running: Running,
    /// What is counted of them.
    pub(crate) status: Arc<Status>,
    /// Cancelled when the worker must give back what it holds.
    pub(crate) hand_back: CancellationToken,
}

impl Attempts {
    /// Handles a delivery to its end. Whatever happens, the message is acknowledged, given back with
    /// a delay, or left to be delivered again when its lease ends.
    pub(crate) async fn handle(&self, delivery: Delivery) {
        self.status.count_pulled();
        let worker = Worker { operations: &self.queue, registry: self, id: &self.worker };
        let delivered = match delivery.read() {
            Ok(delivered) => delivered,
            Err(error) => {
                let subject = delivery.subject();
                tracing::error!(
                    subject,
                    error = chain(&error),
                    "a message of the queue is not a build request"
                );
                return worker.reject(&delivery, delivery.ids(), &error).await;
            }
        };
        let build = delivered.request.build;
        let Some(registered) = self.running.register(build) else {
            // The lease seemed lost, and the build came back to the worker that still works on it.
            // Extend the lease and let the attempt continue.
            worker.answer(&delivery, Answer::Extend).await;
            return;
        };
        let delivery = Arc::new(delivery);
        let lease = Lease::keep(Arc::clone(&delivery));
        let claim = worker.claim(&delivered, &delivery, || lease.holds());
        let claimed = match Box::pin(claim).await {
            Ok(Claim::Claimed(claimed)) => *claimed,
            Ok(Claim::Settled) => return,
            // Left alone, the message comes back when its lease ends.
            Err(error) => {
                tracing::warn!(%build, error = chain(&error), "could not claim a build");
                return;
            }
        };
        let request = Arc::new(delivered.request);
        let epoch = claimed.0.build.state.epoch;
        let project = request.project.clone();
        let log = BuildLog::start(self.queue.clone(), project, build, epoch);
        let work = ImageWork {
            shared: self.clone(),
            request,
            lease,
            log: Some(log),
            notice: registered.notice(),
            liveness: Liveness::default(),
        };
        work.begin(&claimed.0);
        Box::pin(Attempt::new(worker, &*delivery, claimed, work).run()).await;
    }
}

impl Registry for Attempts {
    fn has_tags(&self) -> bool {
        self.stages.tagger().is_some()
    }

    async fn point(
        &self,
        request: &BuildRequest,
        owner: &TagOwner,
        writer: &str,
    ) -> Result<bool, AttemptFailure> {
        let Some(tagger) = self.stages.tagger() else { return Ok(false) };
        let pointed = tagger.point(request, &owner.reference, owner.digest, writer).await;
        pointed.map_err(AttemptFailure::from)
    }
}

impl From<StageError> for AttemptFailure {
    fn from(error: StageError) -> Self {
        let StageError { failure, transient, charged, retry_after } = error;
        Self { failure, transient, charged, retry_after }
    }
}
