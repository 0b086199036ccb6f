// SPDX-License-Identifier: Apache-2.0

//! A nats-server and a dispatcher of this machine.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream;
use serde_json::{Value, json};
use slipway_proto::subject::Subjects;
use slipway_tests::port::free_port;
use tokio::process::{Child, Command};

use crate::Options;
use crate::http::Connection;

/// How often it is asked whether the dispatcher is ready.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The longest time a rebuild may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The system.
pub(crate) struct System {
    directory: PathBuf,
    program: PathBuf,
    nats: Child,
    nats_address: SocketAddr,
    dispatcher: Option<Child>,
    address: SocketAddr,
}

impl System {
    /// Starts the server.
    pub(crate) async fn start(options: &Options, directory: &Path) -> anyhow::Result<Self> {
        let program = match &options.dispatcher {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("slipway-dispatcher"),
        };
        std::fs::create_dir_all(directory)?;
        let nats_address = free_address();
        let mut command = Command::new(&options.nats_server);
        command.args(["-a", "127.0.0.1", "-p", &nats_address.port().to_string(), "-js", "-sd"]);
        command.arg(directory.join("nats"));
        let nats = spawn(command, &directory.join("nats.log"))
            .with_context(|| format!("failed to start {}", options.nats_server.display()))?;
        let mut system = Self {
            directory: directory.to_owned(),
            program,
            nats,
            nats_address,
            dispatcher: None,
            address: free_address(),
        };
        let started = Instant::now();
        while system.jetstream().await.is_err() {
            anyhow::ensure!(started.elapsed() < PATIENCE, "nats-server does not answer");
            let status = system.nats.try_wait()?;
            anyhow::ensure!(status.is_none(), "nats-server ended: see its log");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(system)
    }

    /// Connects to the server.
    pub(crate) async fn jetstream(&self) -> anyhow::Result<jetstream::Context> {
        let client = async_nats::connect(self.nats_address.to_string()).await?;
        let mut context = jetstream::new(client);
        context.set_timeout(Duration::from_secs(30));
        Ok(context)
    }

    /// Returns where the dispatcher is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the dispatcher without a projection and waits until it has folded all events.
    pub(crate) async fn rebuild(&mut self) -> anyhow::Result<Value> {
        self.stop_dispatcher().await?;
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.to_string_lossy().contains("/data") {
                std::fs::remove_dir_all(path)?;
            }
        }
        let events = self.events().await?;
        let nats_before = cpu_s(self.nats.id())?;
        let mut report = self.restart().await?;
        let seconds = report["ready_s"].as_f64().context("a time")?;
        report["events"] = json!(events);
        report["events_per_s"] = json!(events as f64 / seconds);
        report["nats_cpu_s"] = json!(cpu_s(self.nats.id())? - nats_before);
        let file = std::fs::metadata(self.directory.join("data/projection.sqlite"))?;
        report["projection_bytes"] = json!(file.len());
        Ok(report)
    }

    /// Starts the dispatcher again, with its projection, and waits until it is ready.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Value> {
        self.stop_dispatcher().await?;
        let mut command = Command::new(&self.program);
        command
            .args(["--listen", &self.address.to_string()])
            .args(["--nats-url", &self.nats_address.to_string()])
            .arg("--data-dir")
            .arg(self.directory.join("data"));
        let started = Instant::now();
        let dispatcher = spawn(command, &self.directory.join("dispatcher.log"))
            .with_context(|| format!("failed to start {}", self.program.display()))?;
        let id = dispatcher.id();
        self.dispatcher = Some(dispatcher);
        loop {
            anyhow::ensure!(started.elapsed() < PATIENCE, "the dispatcher does not get ready");
            if let Ok(mut connection) = Connection::open(self.address).await
                && connection.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
            {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let ready_s = started.elapsed().as_secs_f64();
        Ok(json!({
            "ready_s": ready_s,
            "dispatcher_cpu_s": cpu_s(id)?,
            "dispatcher_peak_bytes": peak_bytes(id)?,
        }))
    }

    /// Stops the dispatcher as an operator does.
    pub(crate) async fn stop_dispatcher(&mut self) -> anyhow::Result<()> {
        let Some(mut dispatcher) = self.dispatcher.take() else { return Ok(()) };
        let id = dispatcher.id().context("it runs")?.to_string();
        Command::new("kill").args(["-TERM", &id]).status().await?;
        dispatcher.wait().await?;
        Ok(())
    }

    /// Returns how much processor time and memory the dispatcher has used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Value> {
        let id = self.dispatcher.as_ref().and_then(Child::id);
        Ok(json!({
            "cpu_s": cpu_s(id)?, "bytes": bytes(id, "VmRSS:")?, "peak_bytes": peak_bytes(id)?,
        }))
    }

    async fn events(&self) -> anyhow::Result<u64> {
        let jetstream = self.jetstream().await?;
        let stream = jetstream.get_stream(Subjects::default().events_stream()).await?;
        Ok(stream.cached_info().state.messages)
    }
}

fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let errors = log.try_clone()?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
    Ok(command.spawn()?)
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Reads the processor time of a process (proc(5)); its clock ticks are hundredths everywhere.
fn cpu_s(id: Option<u32>) -> anyhow::Result<f64> {
    let id = id.context("the process has ended")?;
    let line = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_name, rest) = line.rsplit_once(')').context("a name in parentheses")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| -> anyhow::Result<u64> {
        Ok(fields.get(field).context("it is there")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

/// Reads the largest resident size of a process so far.
fn peak_bytes(id: Option<u32>) -> anyhow::Result<u64> {
    bytes(id, "VmHWM:")
}

/// Reads a size from the status of a process.
fn bytes(id: Option<u32>, name: &str) -> anyhow::Result<u64> {
    let id = id.context("the process has ended")?;
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("it is there")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
