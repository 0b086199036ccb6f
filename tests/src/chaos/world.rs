// SPDX-License-Identifier: Apache-2.0

//! The world to break: real processes on one machine.
//!
//! NATS servers, a registry behind one that misbehaves, dispatchers and workers. Each dispatcher
//! and worker reaches each NATS server through a link of its own, so that one of them alone can be
//! cut off. A process that ends by itself is started again, as a service manager would.

mod program;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::history::{History, What};
use super::plan::{DISPATCHERS, Target, WORKERS};
use crate::disk::SmallDisk;
use crate::faulty_registry::FaultyRegistry;
use crate::link::Link;
use crate::nats::{Nats, NatsOptions, nats_program};
use crate::port::free_port;
use crate::registry::Registry;
use crate::{http, wait};
pub(super) use program::Program;

/// The size of a NATS disk that can be full. A run of ten minutes fits many times.
const DISK_MIB: u64 = 1024;

/// How often the world checks for programs that ended by themselves.
const SUPERVISION_INTERVAL: Duration = Duration::from_millis(500);

/// How many builds a worker runs at once.
const SLOTS: u32 = 2;

/// The options of a world.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// The directory of everything.
    pub directory: PathBuf,
    /// The version of the NATS servers; Debian's if there is none.
    pub server: Option<String>,
    /// How many NATS servers.
    pub nodes: usize,
    /// The data directories of the NATS servers, if not below the directory.
    pub stores: Option<Vec<PathBuf>>,
    /// The protection to switch off, to see the suite fail.
    pub switch_off: Option<String>,
    /// How many workers there are at the start.
    pub workers: usize,
    /// The seed.
    pub seed: u64,
}

/// All processes.
pub struct World {
    /// The NATS servers.
    pub nats: Mutex<Nats>,
    /// The real registry.
    pub registry: Mutex<Registry>,
    /// The registry that workers use.
    pub faulty: FaultyRegistry,
    /// An HTTP client.
    pub client: reqwest::Client,
    /// The address of the real registry.
    pub registry_address: String,
    /// The URLs of the NATS servers, without links.
    pub nats_url: String,
    /// The directory of everything.
    pub directory: PathBuf,
    links: Vec<(Target, Link)>,
    programs: BTreeMap<Target, Mutex<Program>>,
    dispatchers: Vec<String>,
    // Unmounted after the server that uses it has ended.
    disk: Option<SmallDisk>,
}

impl World {
    /// Starts everything.
    ///
    /// # Panics
    ///
    /// When something does not start in time.
    pub async fn start(options: &WorldOptions) -> Self {
        let directory = &options.directory;
        let (stores, disk) = stores(options);
        let version = options.server.as_deref();
        let nats = Nats::start(NatsOptions {
            program: nats_program(version),
            replicas: options.nodes,
            sync_always: version.is_some_and(|version| !version.starts_with("2.9.")),
            stores,
            logs: directory.clone(),
        })
        .await;
        let registry = Registry::start(&directory.join("registry")).await;
        let registry_address = registry.address.clone();
        let faulty = FaultyRegistry::before(&registry_address, options.seed).await;
        let mut world = Self {
            nats_url: nats.url(),
            nats: Mutex::new(nats),
            registry: Mutex::new(registry),
            faulty,
            client: http::client(),
            registry_address,
            directory: directory.clone(),
            links: Vec::new(),
            programs: BTreeMap::new(),
            dispatchers: Vec::new(),
            disk,
        };
        for number in 0..DISPATCHERS {
            world.add_dispatcher(number, options).await;
        }
        for number in 0..WORKERS {
            world.add_worker(number, options).await;
        }
        for number in 0..DISPATCHERS {
            world.program(Target::Dispatcher(number)).await.start(None);
            world.dispatcher_ready(number).await;
        }
        for number in 0..options.workers {
            world.program(Target::Worker(number)).await.start(None);
        }
        world
    }

    async fn add_dispatcher(&mut self, number: usize, options: &WorldOptions) {
        let target = Target::Dispatcher(number);
        let listen = format!("127.0.0.1:{}", free_port());
        let arguments = vec![
            format!("--listen={listen}"),
            format!("--nats-url={}", self.linked(target).await),
            format!("--data-dir={}", self.directory.join(target.to_string()).display()),
            format!("--store={}", self.directory.join("store").display()),
            format!("--replicas={}", options.nodes),
        ];
        self.add(target, "slipway-dispatcher", arguments, options);
        self.dispatchers.push(listen);
    }

    async fn add_worker(&mut self, number: usize, options: &WorldOptions) {
        let target = Target::Worker(number);
        let arguments = vec![
            format!("--id={target}"),
            format!("--nats-url={}", self.linked(target).await),
            format!("--store={}", self.directory.join("store").display()),
            format!("--cache-dir={}", self.directory.join(format!("cache-{target}")).display()),
            format!("--slots={SLOTS}"),
            "--log-format=json".to_owned(),
        ];
        self.add(target, "slipway-worker", arguments, options);
    }

    /// Opens links to all NATS servers and returns their URLs.
    async fn linked(&mut self, target: Target) -> String {
        let mut urls = Vec::new();
        for address in self.nats_url.replace("nats://", "").split(',') {
            let link = Link::to(address).await;
            urls.push(format!("nats://{}", link.address()));
            self.links.push((target, link));
        }
        urls.join(",")
    }

    fn add(&mut self, target: Target, name: &str, arguments: Vec<String>, options: &WorldOptions) {
        let log = self.directory.join(format!("{target}.log"));
        let program = Program::new(target, name, arguments, options.switch_off.clone(), log);
        self.programs.insert(target, Mutex::new(program));
    }

    /// Returns a dispatcher or worker.
    ///
    /// # Panics
    ///
    /// When the target is neither.
    pub(crate) async fn program(&self, target: Target) -> MutexGuard<'_, Program> {
        self.programs.get(&target).expect("a dispatcher or worker").lock().await
    }

    /// Returns the links of a dispatcher or worker.
    pub(crate) fn links_of(&self, target: Target) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |(owner, _)| *owner == target).map(|(_, link)| link)
    }

    /// Returns the disk of NATS, if it is one that can be full.
    #[must_use]
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
    }

    /// Returns a URL of a dispatcher.
    #[must_use]
    pub fn url(&self, dispatcher: usize, path: &str) -> String {
        format!("http://{}{path}", self.dispatchers[dispatcher])
    }

    /// Returns whether a dispatcher is ready.
    pub async fn is_ready(&self, dispatcher: usize) -> bool {
        let request = self.client.get(self.url(dispatcher, "/readyz"));
        let answer = request.timeout(Duration::from_secs(3)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until a dispatcher is ready.
    pub async fn dispatcher_ready(&self, number: usize) {
        wait::until(&format!("dispatcher-{}", number + 1), wait::LATER, || async {
            self.is_ready(number).await.then_some(())
        })
        .await;
    }

    /// Starts every process that ends by itself again, until the task is dropped.
    pub async fn supervise(self: Arc<Self>, history: History) {
        loop {
            tokio::time::sleep(SUPERVISION_INTERVAL).await;
            for (target, program) in &self.programs {
                // A program that a fault is using is skipped.
                let Ok(mut program) = program.try_lock() else { continue };
                if let Some(how) = program.ended().await {
                    history.note(What::Exited { process: target.to_string(), how });
                    program.start(None);
                }
            }
        }
    }

    /// Repairs everything that faults may have left broken.
    pub async fn heal(&self) {
        self.faulty.clear();
        self.links.iter().for_each(|(_, link)| link.heal());
        let mut nats = self.nats.lock().await;
        for node in 0..nats.addresses().len() {
            if nats.is_running(node) {
                nats.signal(node, "CONT");
            } else {
                nats.restart(node).await;
            }
        }
        nats.ready().await;
        drop(nats);
        for program in self.programs.values() {
            program.lock().await.heal();
        }
        for number in 0..self.dispatchers.len() {
            self.dispatcher_ready(number).await;
        }
    }
}

/// Returns the data directories of the NATS servers. A single server gets a disk of its own if the
/// system permits it.
fn stores(options: &WorldOptions) -> (Vec<PathBuf>, Option<SmallDisk>) {
    if let Some(stores) = &options.stores {
        return (stores.clone(), None);
    }
    let directory = |node: usize| options.directory.join(format!("nats-{node}"));
    if options.nodes == 1 && SmallDisk::available() {
        let disk = SmallDisk::mount(&directory(0), DISK_MIB);
        return (vec![disk.path().join("data")], Some(disk));
    }
    ((0..options.nodes).map(directory).collect(), None)
}

/// Returns the path of a program of this workspace, built with this one or with its tests.
///
/// # Panics
///
/// When it was not built.
fn built(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the program has a path");
    // target/<profile>/<program>, or target/<profile>/deps/<test>
    let found = this.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    found.into_iter().find(|path: &PathBuf| path.exists()).unwrap_or_else(|| {
        panic!("{name} is missing beside {}: run `cargo build --workspace` first", this.display())
    })
}

/// Makes the directory of a run.
///
/// # Panics
///
/// When it cannot be made, or is not empty.
#[must_use]
pub fn make_directory(keep: Option<&Path>) -> PathBuf {
    match keep {
        Some(path) => {
            std::fs::create_dir_all(path).expect("the directory can be made");
            let is_empty =
                std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            assert!(is_empty, "{} is not empty", path.display());
            path.canonicalize().expect("the directory is there")
        }
        None => tempfile::Builder::new()
            .prefix("slipway-chaos-")
            .tempdir()
            .expect("a directory can be made")
            .keep(),
    }
}
