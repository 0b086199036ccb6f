// SPDX-License-Identifier: Apache-2.0

//! The programs that are measured: a nats-server, a dispatcher and workers of their own, with their
//! data in a temporary directory on disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::nats::{Nats, NatsOptions};
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command};
use slipway_tests::wait;

use super::QueueOptions;
use super::client::Connection;
use crate::inputs::tiny;

const POLL: Duration = Duration::from_millis(5);

/// The running programs.
pub(super) struct Bed {
    /// The dispatcher.
    pub(super) dispatcher: Process,
    /// The workers, in the order of their start.
    pub(super) workers: Vec<Process>,
    /// The nats-server.
    pub(super) nats: Nats,
    /// Where the dispatcher listens, `127.0.0.1:<port>`.
    pub(super) address: String,
    /// A request that can be submitted any number of times.
    pub(super) document: Bytes,
    directory: tempfile::TempDir,
}

/// How an empty worker is started; see [`super::empty::Options`].
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerKind {
    /// How many builds it runs at once.
    pub(super) slots: usize,
    /// How many of the four stages it announces.
    pub(super) stages: usize,
    /// Whether its builds wait in their last stage until they are stopped.
    pub(super) hold: bool,
}

impl Bed {
    /// Starts nats-server and dispatcher, and uploads an artifact.
    pub(super) async fn start(options: &QueueOptions) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("failed to make a temporary directory")?;
        let nats = NatsOptions {
            program: options.nats_server.clone(),
            ..NatsOptions::one(directory.path())
        };
        let nats = Nats::start(nats).await;
        let address = format!("127.0.0.1:{}", free_port());
        let mut dispatcher = command(program(&options.programs, "slipway-dispatcher")?);
        dispatcher
            .arg(format!("--listen={address}"))
            .arg(format!("--nats-url={}", nats.url()))
            .arg(format!("--data-dir={}", directory.path().join("dispatcher").display()))
            .arg(format!("--store={}", directory.path().join("store").display()))
            .env("SLIPWAY_LOG", "warn");
        let log = directory.path().join("dispatcher.log");
        let mut bed = Self {
            dispatcher: Process::start("slipway-dispatcher", dispatcher, &log),
            workers: Vec::new(),
            nats,
            address,
            document: Bytes::new(),
            directory,
        };
        wait::until("the dispatcher", wait::SOON, || async {
            let mut connection = Connection::open(&bed.address).await.ok()?;
            let ready = connection.call(Method::GET, "/readyz", Bytes::new()).await.ok()?;
            (ready.0 == 200).then_some(())
        })
        .await;
        bed.document = bed.upload().await?;
        Ok(bed)
    }

    async fn upload(&self) -> anyhow::Result<Bytes> {
        let artifact = tiny();
        let digest = Digest::of(&artifact);
        let mut connection = self.connect().await?;
        let path = "/v1/projects/bench/artifacts?filename=tool";
        let (status, answer) = connection.call(Method::PUT, path, artifact.into()).await?;
        ensure!(matches!(status, 200 | 201), "the artifact was refused: {answer:?}");
        let document = json!({
            "artifact": digest,
            // Never written to: the workers' stages are empty.
            "image": "registry.invalid/bench/app:1",
            "environment": "scratch",
        });
        Ok(document.to_string().into())
    }

    /// Starts a worker whose image stages are empty.
    pub(super) fn add_worker(&mut self, kind: WorkerKind) -> anyhow::Result<()> {
        let id = format!("worker-{}", self.workers.len() + 1);
        let mut worker = command(std::env::current_exe()?);
        worker
            .arg(super::empty::COMMAND)
            .arg(format!("--nats-url={}", self.nats.url()))
            .arg(format!("--id={id}"))
            .arg(format!("--slots={}", kind.slots))
            .arg(format!("--stages={}", kind.stages));
        if kind.hold {
            worker.arg("--hold");
        }
        let log = self.directory.path().join(format!("{id}.log"));
        self.workers.push(Process::start(&id, worker, &log));
        Ok(())
    }

    /// Waits until the dispatcher lists `count` workers.
    pub(super) async fn workers_ready(&self, count: usize) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        loop {
            let (_, answer) = connection.call(Method::GET, "/v1/workers", Bytes::new()).await?;
            let workers: Vec<Value> = serde_json::from_slice(&answer)?;
            if workers.len() >= count {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Opens a connection to the dispatcher.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(&self.address).await
    }

    /// Connects to the nats-server.
    pub(super) async fn nats_client(&self) -> anyhow::Result<async_nats::Client> {
        Ok(async_nats::connect(self.nats.url()).await?)
    }

    /// Submits a build and returns its id.
    pub(super) async fn submit(&self, connection: &mut Connection) -> anyhow::Result<String> {
        let answer = connection.submit(self.document.clone()).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer["id"].as_str().context("an accepted build has an id")?.to_owned())
    }

    /// Returns how many messages the nats-server has received from its clients so far.
    pub(super) async fn messages_received(&self) -> anyhow::Result<u64> {
        let mut connection = Connection::open(&self.nats.monitor(0)).await?;
        let (_, answer) = connection.call(Method::GET, "/varz", Bytes::new()).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        answer["in_msgs"].as_u64().context("the server counts its messages")
    }
}

/// Returns the processor time that a process has used so far.
pub(super) fn cpu(process: u32) -> Duration {
    // The 14th and 15th field of proc_pid_stat(5), in hundredths of a second; the second one, in
    // parentheses, may hold anything.
    let line = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = line.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let ticks: u64 = fields.take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The processor time of some processes since a moment.
pub(super) struct Cpu(Vec<(&'static str, u32, Duration)>);

impl Cpu {
    /// Begins to count.
    pub(super) fn since_now(processes: &[(&'static str, u32)]) -> Self {
        Self(processes.iter().map(|(name, id)| (*name, *id, cpu(*id))).collect())
    }

    /// Returns what each used since then for one of `count` things.
    pub(super) fn each(&self, count: usize) -> Vec<(&'static str, String)> {
        let used = self.0.iter().map(|(name, id, before)| {
            let used = cpu(*id).saturating_sub(*before).as_secs_f64();
            (*name, format!("{:.0} µs each", used * 1e6 / count as f64))
        });
        used.collect()
    }
}

/// Raises the limit of open files of this process and its children for so many connections, each of
/// which may have both ends in this process.
pub(super) fn allow_many_connections(count: usize) -> anyhow::Result<()> {
    let wanted = 2 * count + 1024;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|limits| limits.split_whitespace().next()?.parse::<usize>().ok());
    if soft.is_some_and(|soft| soft >= wanted) {
        return Ok(());
    }
    let raised = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={wanted}:")])
        .status()
        .context("failed to run prlimit")?;
    ensure!(raised.success(), "this process may not open {wanted} files: raise `ulimit -Hn`");
    Ok(())
}

/// Waits until a condition yields something.
pub(super) async fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let met = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let met = tokio::time::timeout(limit, met).await;
    met.with_context(|| format!("gave up waiting for {what} after {limit:?}"))
}

fn program(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    ensure!(path.exists(), "{} is missing: build it first", path.display());
    Ok(path)
}
