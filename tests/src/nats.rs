// SPDX-License-Identifier: Apache-2.0

//! A nats-server, or a cluster of three. Each server can be killed, stopped and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::ConnectOptions;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::port::free_port;
use crate::process::{Process, command, repository};
use crate::wait;

/// How long one server may take to connect or answer before another is asked.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);

/// The options of the servers.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The server; see [`nats_program`].
    pub program: PathBuf,
    /// How many servers: 1, or 3 that form a cluster.
    pub replicas: usize,
    /// Whether the servers sync every write to the medium before they acknowledge it. Debian's
    /// server cannot.
    pub sync_always: bool,
    /// Where each server keeps its data.
    pub stores: Vec<PathBuf>,
    /// Where the logs and configurations of all of them go.
    pub logs: PathBuf,
}

impl NatsOptions {
    /// Returns the options of one server of Debian's, with its data in `nats` below a directory and
    /// its log next to that.
    #[must_use]
    pub fn one(directory: &Path) -> Self {
        Self {
            program: nats_program(None),
            replicas: 1,
            sync_always: false,
            stores: vec![directory.join("nats")],
            logs: directory.to_owned(),
        }
    }
}

/// Running servers.
pub struct Nats {
    options: NatsOptions,
    ports: Vec<Ports>,
    processes: Vec<Process>,
}

/// The ports of a server.
#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    monitor: u16,
    routes: u16,
}

impl Ports {
    fn free() -> Self {
        Self { clients: free_port(), monitor: free_port(), routes: free_port() }
    }
}

impl Nats {
    /// Starts all servers and waits until JetStream takes requests and reaches all of them.
    ///
    /// # Panics
    ///
    /// When they do not start in time.
    pub async fn start(options: NatsOptions) -> Self {
        let replicas = options.replicas;
        assert!(matches!(replicas, 1 | 3), "one server, or a cluster of three");
        assert_eq!(options.stores.len(), replicas, "one store for each server");
        let ports: Vec<Ports> = (0..replicas).map(|_| Ports::free()).collect();
        for node in 0..replicas {
            let path = configuration_path(&options.logs, node);
            std::fs::write(path, configuration(&options, node, &ports))
                .expect("the configuration can be written");
        }
        let processes = (0..replicas).map(|node| spawn(&options, node)).collect();
        let mut nats = Self { options, ports, processes };
        for node in 0..replicas {
            nats.answers(node).await;
        }
        nats.ready().await;
        if replicas > 1 {
            nats.placeable().await;
        }
        nats
    }

    /// Returns the address of each server, `127.0.0.1:<port>`. It stays the same.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|ports| format!("127.0.0.1:{}", ports.clients)).collect()
    }

    /// Returns the URLs of all servers, for clients.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> =
            self.addresses().iter().map(|address| format!("nats://{address}")).collect();
        urls.join(",")
    }

    /// Returns the address of a server's monitoring endpoint, `127.0.0.1:<port>`.
    #[must_use]
    pub fn monitor(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node].monitor)
    }

    /// Kills a server. A dead one stays dead.
    pub fn kill(&mut self, node: usize) {
        self.processes[node].kill();
    }

    /// Sends a server a signal by its name, such as `STOP` or `CONT`.
    pub fn signal(&self, node: usize, signal: &str) {
        self.processes[node].signal(signal);
    }

    /// Returns whether a server runs, stopped or not.
    pub fn is_running(&mut self, node: usize) -> bool {
        self.processes[node].is_running()
    }

    /// Starts a server again, with its data, and waits until it takes connections.
    pub async fn restart(&mut self, node: usize) {
        self.kill(node);
        self.processes[node] = spawn(&self.options, node);
        self.answers(node).await;
    }

    /// Waits until JetStream takes requests: in a cluster, until it has a leader.
    pub async fn ready(&self) {
        wait::until("JetStream", wait::LATER, || self.request("INFO", "")).await;
    }

    /// Returns the server that leads a stream, if one is known.
    pub async fn leader(&self, stream: &str) -> Option<usize> {
        let answer = self.request(&format!("STREAM.INFO.{stream}"), "").await?;
        if self.options.replicas == 1 {
            return Some(0);
        }
        let leader = answer["cluster"]["leader"].as_str()?;
        (0..self.options.replicas).find(|node| name(*node) == leader)
    }

    /// Returns the process of a server.
    #[must_use]
    pub fn process(&self, node: usize) -> &Process {
        &self.processes[node]
    }

    /// Waits until a server takes connections.
    async fn answers(&mut self, node: usize) {
        let (name, address) = (name(node), self.addresses().swap_remove(node));
        let process = &mut self.processes[node];
        wait::until(&name, wait::SOON, || {
            assert!(process.is_running(), "{name} ended: {}", process.output());
            let connection = TcpStream::connect(address.clone());
            async move { connection.await.ok().map(|_| ()) }
        })
        .await;
    }

    /// Waits until a stream can be placed on all servers: a leader that was just elected does not
    /// know the others yet.
    async fn placeable(&self) {
        let trial = json!({
            "name": "harness-trial", "subjects": ["harness.trial"], "storage": "memory",
            "num_replicas": self.options.replicas,
        });
        let trial = trial.to_string();
        let create = "STREAM.CREATE.harness-trial";
        wait::until("a place for streams", wait::LATER, || self.request(create, &trial)).await;
        // If it stays, it is empty and harmless.
        let _deleted = self.request("STREAM.DELETE.harness-trial", "").await;
    }

    /// Sends a request to JetStream through the first server that passes it on, and returns the
    /// answer unless it is an error.
    async fn request(&self, subject: &str, body: &str) -> Option<Value> {
        for address in self.addresses() {
            let answer = request(&address, &format!("$JS.API.{subject}"), body).await;
            if let Some(answer) = answer.filter(|answer| answer.get("error").is_none()) {
                return Some(answer);
            }
        }
        None
    }
}

/// Returns the nats-server of a version, which is fetched the first time; without a version,
/// Debian's.
///
/// # Panics
///
/// When there is no such version or it cannot be fetched.
#[must_use]
pub fn nats_program(version: Option<&str>) -> PathBuf {
    let Some(version) = version else { return PathBuf::from("nats-server") };
    let script = repository().join("dev/nats-server.sh");
    let output = Command::new(script).arg(version).output().expect("the script can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nats-server {version} cannot be fetched: {errors}");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim_end())
}

async fn request(address: &str, subject: &str, body: &str) -> Option<Value> {
    let options = ConnectOptions::new().connection_timeout(SERVER_DEADLINE);
    let client = options.request_timeout(Some(SERVER_DEADLINE)).connect(address).await.ok()?;
    let answer = client.request(subject.to_owned(), body.to_owned().into()).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

fn name(node: usize) -> String {
    format!("nats-{node}")
}

fn configuration_path(logs: &Path, node: usize) -> PathBuf {
    logs.join(format!("{}.conf", name(node)))
}

/// Clients must use only the addresses they were given, because those may be links, so no server
/// advertises the others. Storage has a limit because the default follows from the disk, and a
/// stream that reserves more than a small disk has could not be made.
fn configuration(options: &NatsOptions, node: usize, ports: &[Ports]) -> String {
    let sync = if options.sync_always { ", sync_interval: always" } else { "" };
    let mut configuration = format!(
        "server_name: {}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\nping_interval: \"2s\"\n\
         jetstream {{ store_dir: {:?}, max_file_store: 64GB, max_memory_store: 1GB{sync} }}\n",
        name(node),
        ports[node].clients,
        ports[node].monitor,
        options.stores[node],
    );
    if options.replicas > 1 {
        let others = (0..options.replicas).filter(|other| *other != node);
        let urls: Vec<String> =
            others.map(|other| format!("\"nats://127.0.0.1:{}\"", ports[other].routes)).collect();
        configuration += &format!(
            "cluster {{ name: slipway-tests, listen: \"127.0.0.1:{}\", no_advertise: true, \
             routes: [{}] }}\n",
            ports[node].routes,
            urls.join(", "),
        );
    }
    configuration
}

fn spawn(options: &NatsOptions, node: usize) -> Process {
    let mut nats = command(&options.program);
    nats.arg("-c").arg(configuration_path(&options.logs, node));
    let name = name(node);
    Process::start(&name, nats, &options.logs.join(format!("{name}.log")))
}
