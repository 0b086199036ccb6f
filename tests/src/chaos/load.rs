// SPDX-License-Identifier: Apache-2.0

//! The load: clients that behave as well and as badly as real ones.
//!
//! They upload, submit under a key, and repeat under the same key when they get no answer, some at
//! another dispatcher; some give up. Some submit twice at once, reuse a key for another request, or
//! cancel their builds. Many builds share few tags, so that several workers want to write one tag
//! at one time.

pub(super) mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::history::{Ask, History};
use super::random::Random;
use super::world::World;
use crate::artifacts;
use client::{Answer, Client};

/// How many clients there are.
const CLIENTS: u64 = 6;

/// The projects they work for.
pub const PROJECTS: [&str; 2] = ["red", "blue"];

/// How many tags all builds share.
const TAGS: u64 = 8;

/// The number of branches whose older builds are superseded.
const BRANCHES: u64 = 4;

/// How long a client pauses between two builds, in milliseconds.
const THINKS_MS: (u64, u64) = (250, 1_100);

/// How many times a client asks before it gives up.
const MAX_TRIES: u32 = 25;

/// Runs all clients until a time, and returns when the last one is done.
///
/// # Panics
///
/// When a client panics.
pub async fn run(world: Arc<World>, history: History, seed: u64, until: Instant) {
    let calls = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let asker = Asker {
            client: Client::new(Arc::clone(&world), history.clone(), Arc::clone(&calls)),
            random: Random::of_part(seed, 100 + number),
            name: format!("{seed}-{number}"),
            built: 0,
            cancels: JoinSet::new(),
        };
        clients.spawn(asker.run(until));
    }
    let operator = Client::new(Arc::clone(&world), history, Arc::clone(&calls));
    clients.spawn(operate(operator, Random::of_part(seed, 99), until));
    while let Some(done) = clients.join_next().await {
        done.expect("a client does not panic");
    }
}

/// Submits some builds one after the other while no worker runs, and returns when all are accepted.
pub async fn submit_all(world: &Arc<World>, history: &History, seed: u64, until: Instant) {
    let calls = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut asker = Asker {
            client: Client::new(Arc::clone(world), history.clone(), Arc::clone(&calls)),
            random: Random::of_part(seed, 100 + number),
            name: format!("{seed}-{number}"),
            built: 0,
            cancels: JoinSet::new(),
        };
        clients.spawn(async move {
            while Instant::now() < until {
                asker.submit_one().await;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client does not panic");
    }
}

/// Now and then cancels everything that a project has queued, or replays a dead letter.
async fn operate(client: Client, mut random: Random, until: Instant) {
    loop {
        let next = Instant::now() + Duration::from_millis(random.between(4_000, 16_000));
        if next >= until {
            return;
        }
        tokio::time::sleep_until(next).await;
        let project = (*random.pick(&PROJECTS)).to_owned();
        let dispatcher = random.index(2);
        let ask = if random.percent(30) {
            Ask::CancelAll { project }
        } else {
            let letters = client.dead(dispatcher, &project).await;
            if letters.is_empty() {
                continue;
            }
            let build = random.pick(&letters).clone();
            Ask::Replay { project, build }
        };
        let _answer = client.ask(dispatcher, &ask, Duration::from_secs(10)).await;
    }
}

/// A client with its habits.
struct Asker {
    client: Client,
    random: Random,
    name: String,
    built: u64,
    cancels: JoinSet<()>,
}

impl Asker {
    async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let pause = self.random.between(THINKS_MS.0, THINKS_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.build().await;
        }
        while let Some(done) = self.cancels.join_next().await {
            done.expect("a cancel does not panic");
        }
    }

    /// Submits a plain build until it is accepted.
    async fn submit_one(&mut self) {
        let project = *self.random.pick(&PROJECTS);
        let Some(artifact) = self.upload(project).await else { return };
        let image = format!("{}/power/{}", self.client.world.faulty.address(), self.name);
        let request = json!({
            "artifact": artifact, "image": format!("{image}:{}", self.built),
            "environment": "scratch",
        });
        let key = format!("{}-{}", self.name, self.built);
        let _accepted = self.persuade(submit(project, &key, &request), false).await;
    }

    async fn build(&mut self) {
        let project = *self.random.pick(&PROJECTS);
        let Some(artifact) = self.upload(project).await else { return };
        let key = format!("{}-{}", self.name, self.built);
        let request = self.request(&artifact);
        let ask = submit(project, &key, &request);
        if self.random.percent(8) {
            // To both dispatchers at the same moment. The checker judges the answers.
            let patience = self.patience();
            let (client, other) = (&self.client, &self.client);
            tokio::join!(client.ask(0, &ask, patience), other.ask(1, &ask, patience));
        }
        let gives_up = self.random.percent(30);
        let Some(build) = self.persuade(ask, gives_up).await else { return };
        if self.random.percent(5) {
            let dispatcher = self.random.index(2);
            let ask = submit(project, &key, &request);
            let _repeated = self.ask(dispatcher, &ask).await;
        }
        if self.random.percent(5) {
            let mut other = request.clone();
            other["labels"] = json!({"other": "true"});
            let dispatcher = self.random.index(2);
            let ask = submit(project, &key, &other);
            let _refused = self.ask(dispatcher, &ask).await;
        }
        if self.random.percent(12) {
            self.cancel_later(project, build);
        }
    }

    /// Uploads a new artifact, and returns its digest.
    async fn upload(&mut self, project: &str) -> Option<String> {
        self.built += 1;
        let bytes = artifacts::elf(62, &format!("{}-{}", self.name, self.built));
        for _ in 0..MAX_TRIES {
            let dispatcher = self.random.index(2);
            if let Some(digest) = self.client.upload(dispatcher, project, bytes.clone()).await {
                return Some(digest);
            }
            self.wait_a_little().await;
        }
        None
    }

    fn request(&mut self, artifact: &str) -> Value {
        let random = &mut self.random;
        let repository = format!("{}/chaos/app", self.client.world.faulty.address());
        let tag = random.below(TAGS);
        let mut request = json!({
            "artifact": artifact, "image": format!("{repository}:{tag}"),
            "environment": "scratch",
        });
        if random.percent(20) {
            request["additional_tags"] = json!([format!("{}", (tag + 1) % TAGS), "latest"]);
        }
        if random.percent(12) {
            let branch = random.below(BRANCHES);
            request["supersede_key"] = json!(format!("branch-{branch}"));
        }
        if random.percent(8) {
            request["max_attempts"] = json!(1);
        }
        request
    }

    /// Asks until there is a clear answer, or gives up.
    async fn persuade(&mut self, ask: Ask, gives_up: bool) -> Option<String> {
        let mut dispatcher = self.random.index(2);
        for _ in 0..MAX_TRIES {
            let answer = self.ask(dispatcher, &ask).await;
            match answer.status {
                Some(200 | 202) => return answer.body["id"].as_str().map(str::to_owned),
                None | Some(429 | 500..) if gives_up => return None,
                None | Some(429 | 500..) => {}
                Some(_) => return None,
            }
            if self.random.percent(50) {
                dispatcher = 1 - dispatcher;
            }
            self.wait_a_little().await;
        }
        None
    }

    async fn ask(&mut self, dispatcher: usize, ask: &Ask) -> Answer {
        let patience = self.patience();
        self.client.ask(dispatcher, ask, patience).await
    }

    fn cancel_later(&mut self, project: &str, build: String) {
        let after = Duration::from_millis(self.random.between(0, 2_500));
        let dispatcher = self.random.index(2);
        let ask = Ask::Cancel { project: project.to_owned(), build };
        let client = self.client.clone();
        self.cancels.spawn(async move {
            tokio::time::sleep(after).await;
            for again in 0..5 {
                let patience = Duration::from_secs(10);
                let answer = client.ask((dispatcher + again) % 2, &ask, patience).await;
                if answer.status.is_some_and(|status| status < 500) {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    fn patience(&mut self) -> Duration {
        Duration::from_millis(self.random.between(2_000, 8_000))
    }

    async fn wait_a_little(&mut self) {
        let pause = self.random.between(200, 1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn submit(project: &str, key: &str, request: &Value) -> Ask {
    Ask::Submit { project: project.to_owned(), key: key.to_owned(), request: request.clone() }
}

/// Numbers requests, so that answers can name them.
fn next_call(calls: &AtomicU64) -> u64 {
    calls.fetch_add(1, Ordering::Relaxed)
}
