// SPDX-License-Identifier: Apache-2.0

//! A worker whose image stages are empty. Claim, lease, events, log, commit and acknowledgement are
//! those of every worker. Nothing is read, assembled or sent, and no tag is written.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use slipway_proto::{BuildId, BuildRequest, Digest, Stage, WorkerId};
use slipway_service::signals;
use slipway_worker::assemble::Assembled;
use slipway_worker::failure::StageError;
use slipway_worker::observer::Observer;
use slipway_worker::pipeline::{Pipeline, Product};
use slipway_worker::push::PushReport;
use slipway_worker::stage_clock::StageClock;
use slipway_worker::stages::{ImageStages, Made};
use slipway_worker::{Config, Worker};

use super::times;

const STAGES: [Stage; 4] = [Stage::Fetch, Stage::Resolve, Stage::Assemble, Stage::Push];

/// The hidden command of the benchmark that runs such a worker.
pub const COMMAND: &str = "empty-worker";

/// How the worker behaves.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// NATS server URL
    #[arg(long)]
    pub nats_url: String,
    /// Name of this worker
    #[arg(long)]
    pub id: WorkerId,
    /// Builds to run at once
    #[arg(long)]
    pub slots: u32,
    /// How many of the four stages each build announces
    #[arg(long, default_value_t = 4)]
    pub stages: usize,
    /// Stay in the last stage until stopped, and print on stdout when that was
    #[arg(long)]
    pub hold: bool,
}

/// Runs the worker until SIGTERM.
///
/// # Errors
///
/// When NATS is not available.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stages = EmptyStages { announced: options.stages.min(STAGES.len()), hold: options.hold };
    let mut config = Config { id: Some(options.id), slots: options.slots, ..Config::default() };
    config.nats.nats_url = options.nats_url.into();
    Worker::start_with(config, Arc::new(stages)).await?.run(signals::stop_token()).await;
    Ok(())
}

struct EmptyStages {
    announced: usize,
    hold: bool,
}

impl EmptyStages {
    async fn stages(&self, request: &BuildRequest, attempt: &dyn Observer) -> Made {
        let mut stages = StageClock::default();
        for stage in STAGES.into_iter().take(self.announced) {
            stages.enter(stage, attempt);
        }
        attempt.line("nothing is fetched, assembled or pushed");
        if self.hold {
            let _says_when = Stopped(request.build);
            std::future::pending::<()>().await;
        }
        let config = Bytes::from_static(b"{}");
        let digest = Digest::of(&config);
        let image = Assembled {
            layers: Vec::new(),
            base: None,
            config: config.clone(),
            config_digest: digest,
            manifest: config,
            manifest_digest: digest,
        };
        let pushed = PushReport { transfers: Vec::new(), sent_bytes: 0 };
        Made { product: Product::single(request.platform, Arc::new(image), pushed), stages }
    }
}

impl ImageStages for EmptyStages {
    fn make<'a>(
        &'a self,
        request: &'a Arc<BuildRequest>,
        attempt: &'a dyn Observer,
    ) -> BoxFuture<'a, Result<Made, StageError>> {
        Box::pin(async move { Ok(self.stages(request, attempt).await) })
    }

    fn tagger(&self) -> Option<&Pipeline> {
        None
    }

    fn cache_bytes(&self) -> u64 {
        0
    }
}

/// Prints on stdout when the stages of a build were stopped.
struct Stopped(BuildId);

impl Drop for Stopped {
    fn drop(&mut self) {
        println!("stopped {} {}", self.0, times::now().as_nanos());
    }
}
