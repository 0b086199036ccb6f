// SPDX-License-Identifier: Apache-2.0

//! The measured Slipway: nats-server, dispatcher and workers, which run all the time, and a client
//! that follows the events.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use slipway_client::{Client, ClientOptions, Events, Followed, Follower, Progress, Upload};
use slipway_proto::event::{Event, EventBody, Outcome};
use slipway_proto::outcome::Image;
use slipway_proto::{BuildId, Digest};
use slipway_tests::nats::{Nats, NatsOptions};
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command};
use slipway_tests::wait;

use super::measure::memory_bytes;

/// How long a build may take, including deliberate failures.
const OUTCOME_WITHIN: Duration = Duration::from_secs(300);

/// All processes, which end when it is dropped.
pub(super) struct Fleet {
    /// The client.
    pub(super) client: Client,
    /// The dispatcher.
    pub(super) dispatcher: Process,
    /// Workers by their names, which are also those of their pools.
    workers: HashMap<String, Worker>,
    nats: Nats,
    events: Follower,
    ended: HashMap<BuildId, Ended>,
    programs: PathBuf,
    directory: PathBuf,
}

/// A worker.
struct Worker {
    process: Process,
    /// Its memory before its first build, in bytes.
    idle_bytes: u64,
}

/// A finished build.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    /// When its event arrived.
    pub(super) at: Instant,
    /// How long it took from its first start, by the times in its events; `None` if it never
    /// started.
    pub(super) ran: Option<Duration>,
    /// The last attempt.
    pub(super) attempt: u32,
    /// The image, or the reason why there is none.
    pub(super) image: Result<Box<Image>, String>,
}

impl Fleet {
    /// Starts everything but workers, from the programs in a directory.
    pub(super) async fn start(programs: &Path, directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).context("failed to make a directory")?;
        let nats = Nats::start(NatsOptions::one(directory)).await;
        let listen = format!("127.0.0.1:{}", free_port());
        let mut dispatcher = command(programs.join("slipway-dispatcher"));
        dispatcher
            .arg(format!("--listen={listen}"))
            .arg(format!("--nats-url={}", nats.url()))
            .arg(format!("--data-dir={}", directory.join("dispatcher").display()))
            .arg(format!("--store={}", directory.join("store").display()));
        let log = directory.join("dispatcher.log");
        let dispatcher = Process::start("slipway-dispatcher", dispatcher, &log);
        let client = Client::new(ClientOptions {
            server: format!("http://{listen}").parse().context("an address")?,
            project: "bench".parse().context("a name")?,
            token: None,
        })?;
        wait::until("the dispatcher", wait::SOON, || async { client.ready().await.ok() }).await;
        let mut events = client.events(Events::Coming, None);
        match events.next().await.context("the events do not open")? {
            Followed::Lost(error) => return Err(error).context("the events do not open"),
            Followed::Opened | Followed::Event(_) | Followed::Ended => {}
        }
        Ok(Self {
            client,
            dispatcher,
            workers: HashMap::new(),
            nats,
            events,
            ended: HashMap::new(),
            programs: programs.to_owned(),
            directory: directory.to_owned(),
        })
    }

    /// Returns the path of an uploaded artifact in the dispatcher's store.
    pub(super) fn artifact(&self, digest: Digest) -> PathBuf {
        self.directory.join("store/blobs/sha256").join(digest.hex())
    }

    /// Starts a worker with two slots and an empty cache, alone in a pool of its name, and waits
    /// until the dispatcher knows it.
    pub(super) async fn add_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let cache = self.directory.join(format!("cache-{name}"));
        // Left by an earlier worker of the same name.
        let _nothing_there = std::fs::remove_dir_all(&cache);
        // An earlier worker of the same name is listed for a while after its end.
        let id = format!("{name}-{}", free_port());
        let mut worker = command(self.programs.join("slipway-worker"));
        worker
            .arg(format!("--nats-url={}", self.nats.url()))
            .arg(format!("--store={}", self.directory.join("store").display()))
            .arg(format!("--cache-dir={}", cache.display()))
            .arg(format!("--id={id}"))
            .arg(format!("--pool={name}"))
            .arg("--slots=2");
        let log = self.directory.join(format!("worker-{name}.log"));
        let process = Process::start("slipway-worker", worker, &log);
        let client = &self.client;
        wait::until("the worker", wait::SOON, || async {
            let workers = client.workers().await.ok()?;
            workers.iter().any(|worker| worker.id.as_str() == id).then_some(())
        })
        .await;
        let idle_bytes = memory_bytes(process.id())?;
        self.workers.insert(name.to_owned(), Worker { process, idle_bytes });
        Ok(())
    }

    /// Ends a worker.
    pub(super) async fn remove_worker(&mut self, name: &str) {
        if let Some(mut worker) = self.workers.remove(name) {
            worker.process.terminate().await;
        }
    }

    /// Returns the process of a worker, and how much memory it held before its first build.
    pub(super) fn worker(&self, name: &str) -> anyhow::Result<(u32, u64)> {
        let worker = self.workers.get(name);
        let worker = worker.with_context(|| format!("there is no worker {name}"))?;
        Ok((worker.process.id(), worker.idle_bytes))
    }

    /// Uploads an artifact and returns its digest and how long that took.
    pub(super) async fn upload(&self, path: &Path) -> anyhow::Result<(Digest, Duration)> {
        let (digest, size_bytes) = slipway_artifact::digest_file(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let filename = path.file_name().context("the artifact has no name")?.to_string_lossy();
        let upload = Upload { path, filename: &filename, digest, size_bytes };
        let silent: Arc<dyn Progress> = Arc::new(());
        let begun = Instant::now();
        self.client.upload(upload, &silent).await.context("failed to upload the artifact")?;
        Ok((digest, begun.elapsed()))
    }

    /// Submits a build.
    pub(super) async fn submit(&self, document: &Value) -> anyhow::Result<BuildId> {
        let key = BuildId::fresh().to_string();
        Ok(self.client.submit(document, &key).await.context("the build was refused")?.id)
    }

    /// Waits for the outcome of a build.
    pub(super) async fn outcome(&mut self, build: BuildId) -> anyhow::Result<Ended> {
        let waiting = async {
            loop {
                if let Some(ended) = self.ended.remove(&build) {
                    return Ok(ended);
                }
                self.hear().await?;
            }
        };
        match tokio::time::timeout(OUTCOME_WITHIN, waiting).await {
            Ok(ended) => ended,
            Err(_) => bail!("build {build} had no outcome for {OUTCOME_WITHIN:?}"),
        }
    }

    /// Waits for an image.
    pub(super) async fn image(&mut self, build: BuildId) -> anyhow::Result<(Instant, Box<Image>)> {
        let ended = self.outcome(build).await?;
        match ended.image {
            Ok(image) => Ok((ended.at, image)),
            Err(failure) => bail!("build {build}: {failure}"),
        }
    }

    /// Returns whether a build's outcome is known.
    pub(super) fn has_ended(&self, build: BuildId) -> bool {
        self.ended.contains_key(&build)
    }

    /// Waits for an event and keeps it if it is an outcome.
    pub(super) async fn hear(&mut self) -> anyhow::Result<()> {
        let followed = self.events.next().await.context("the events ended")?;
        let Followed::Event(event) = followed else { return Ok(()) };
        let at = Instant::now();
        let event: Event = serde_json::from_str(&event.data).context("it is no event")?;
        let EventBody::Finished(finished) = event.body else { return Ok(()) };
        let ran = finished.started_at.map(|started| {
            // Both times are from one clock, and in the order of cause and effect.
            Duration::try_from(event.time.duration_since(started)).unwrap_or_default()
        });
        let image = match finished.outcome {
            Outcome::Succeeded { image } => Ok(image),
            Outcome::Failed { failure } => Err(failure.to_string()),
            Outcome::Cancelled { message } => Err(format!("cancelled: {message}")),
        };
        self.ended.insert(event.subject, Ended { at, ran, attempt: finished.attempt, image });
        Ok(())
    }
}
