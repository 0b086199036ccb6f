// SPDX-License-Identifier: Apache-2.0

//! Waits until the system has come to rest, and collects everything that it then holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use slipway_proto::Timestamp;
use tokio::time::Instant;

use super::checker::facts::{is_end, phase};
use super::history::{History, What};
use super::load::PROJECTS;
use super::observer::{self, Source};
use super::world::World;

/// How long the system may make no progress towards rest after all faults are healed.
pub(super) const RUN_STALL_LIMIT: Duration = Duration::from_secs(120);

/// How often progress is checked.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker's lines after the end of its build may take to reach the archived log, which
/// is completed a minute later.
const LATE_LINES_DEADLINE: Duration = Duration::from_secs(75);

/// How many requests are sent at once.
const REQUEST_CONCURRENCY: usize = 8;

/// Waits until the queue is empty, every record is finished and every end announced, or until there
/// was no progress for `limit`. The load decides how much there is left to do.
pub(super) async fn rest(world: &World, history: &History, limit: Duration) {
    let mut moved = Instant::now();
    let mut least = u64::MAX;
    let mut announced = Announced::default();
    while least > 0 && moved.elapsed() < limit {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let Ok(left) = left(world, &mut announced).await else { continue };
        if left < least {
            (least, moved) = (left, Instant::now());
        }
    }
    history.note(What::Rested { in_time: least == 0 });
}

/// The builds whose end was announced, and how far the events were read.
#[derive(Default)]
struct Announced {
    read: u64,
    builds: BTreeSet<String>,
}

/// Returns how many builds are left: those in the queue; if there are none, those without an end;
/// if there are none, those whose end was not announced.
async fn left(world: &World, announced: &mut Announced) -> anyhow::Result<u64> {
    let url = &world.nats_url;
    let queued = observer::queue(url).await?.left();
    if queued > 0 {
        return Ok(queued);
    }
    // Whether each build has ended; `None` for a deleted record.
    let mut ended: BTreeMap<String, Option<bool>> = BTreeMap::new();
    observer::read_all(Source::LastRecords, url, 0, |_, what| {
        let What::Record(seen) = what else { return };
        let phase = seen.record.map(|record| is_end(phase(&record)));
        ended.insert(seen.build, phase);
    })
    .await?;
    let unfinished = ended.values().filter(|ended| **ended == Some(false)).count();
    if unfinished > 0 {
        return Ok(unfinished as u64);
    }
    let Announced { read, builds } = announced;
    *read = observer::read_all(Source::Events, url, *read, |_, what| {
        let What::Event(seen) = what else { return };
        if seen.event["type"] == "dev.slipway.build.finished.v1"
            && let Some(build) = seen.event["subject"].as_str()
        {
            builds.insert(build.to_owned());
        }
    })
    .await?;
    let told =
        |(build, ended): &(&String, &Option<bool>)| ended.is_none() || builds.contains(*build);
    Ok(ended.iter().filter(|build| !told(build)).count() as u64)
}

/// Records the contents of NATS, the registry, the workers' logs and the API.
///
/// # Errors
///
/// When a part does not answer although everything is healed.
pub(super) async fn collect(world: &World, history: &History) -> anyhow::Result<()> {
    let mut builds = BTreeMap::new();
    let mut manifests = BTreeSet::new();
    let mut references = BTreeSet::new();
    observer::read_all(Source::LastRecords, &world.nats_url, 0, |_, what| {
        if let What::Record(seen) = &what
            && let Some(record) = &seen.record
        {
            let project = record["request"]["project"].as_str().unwrap_or(PROJECTS[0]);
            builds.insert(seen.build.clone(), project.to_owned());
            for reference in record["request"]["references"].as_array().into_iter().flatten() {
                let reference = reference.as_str().unwrap_or_default().to_owned();
                if let Some(digest) = record["state"]["phase"]["image"]["digest"].as_str() {
                    manifests.insert((repository(&reference), digest.to_owned()));
                }
                references.insert(reference);
            }
        }
        history.note(what);
    })
    .await?;
    let note = |_: u64, what| history.note(what);
    observer::read_all(Source::Events, &world.nats_url, 0, note).await?;
    let queue = observer::queue(&world.nats_url).await?;
    history.note(What::Queue { messages: queue.messages, ack_pending: queue.ack_pending });
    for write in world.faulty.writes() {
        history.note(What::Wrote(write));
    }
    worker_lines(world, history);
    registry(world, history, &manifests, &references).await;
    views(world, history, &builds).await;
    logs(world, history, builds).await;
    Ok(())
}

/// Returns the repository of a tagged reference, without its registry.
fn repository(reference: &str) -> String {
    let path = reference.split_once('/').map_or(reference, |(_, path)| path);
    path.rsplit_once(':').map_or(path, |(repository, _)| repository).to_owned()
}

/// Finds the lines in the workers' logs that report what happened to messages.
fn worker_lines(world: &World, history: &History) {
    for number in 0..super::plan::WORKERS {
        let worker = super::plan::Target::Worker(number).to_string();
        let path = world.directory.join(format!("{worker}.log"));
        // A line that a killed process left unfinished is not JSON.
        let text = std::fs::read(path).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some(what) = worker_line(&worker, line) {
                history.note(what);
            }
        }
    }
}

fn worker_line(worker: &str, line: &str) -> Option<What> {
    let document: Value = serde_json::from_str(line).ok()?;
    let message = document["fields"]["message"].as_str()?;
    if !matches!(message, "settled" | "a finished build was delivered again") {
        return None;
    }
    let time: Timestamp = document["timestamp"].as_str()?.parse().ok()?;
    let build = document["fields"]["build"].as_str()?.to_owned();
    let (worker, message) = (worker.to_owned(), message.to_owned());
    Some(What::WorkerLine { worker, time, message, build })
}

async fn registry(
    world: &World,
    history: &History,
    manifests: &BTreeSet<(String, String)>,
    references: &BTreeSet<String>,
) {
    let guard = world.registry.lock().await;
    let registry = &*guard;
    let seen = futures::stream::iter(manifests)
        .map(|(repository, digest)| async move {
            let Some((manifest, _)) = registry.manifest(repository, digest).await else {
                return (repository, digest, false, Vec::new());
            };
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let blobs = layers.chain([&manifest["config"]]);
            let mut missing = Vec::new();
            for blob in blobs.filter_map(|blob| blob["digest"].as_str()) {
                if !has_blob(world, repository, blob).await {
                    missing.push(blob.to_owned());
                }
            }
            (repository, digest, true, missing)
        })
        .buffer_unordered(REQUEST_CONCURRENCY)
        .collect::<Vec<_>>()
        .await;
    for (repository, digest, present, missing) in seen {
        let (repository, digest) = (repository.clone(), digest.clone());
        history.note(What::Manifest { repository, digest, present, missing });
    }
    for reference in references {
        let (name, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        let manifest = registry.manifest(&repository(name), tag).await;
        let digest = manifest.map(|(_, digest)| digest.to_string());
        history.note(What::Tag { reference: reference.clone(), digest });
    }
}

async fn has_blob(world: &World, repository: &str, digest: &str) -> bool {
    let url = format!("http://{}/v2/{repository}/blobs/{digest}", world.registry_address);
    let answer = world.client.head(url).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

async fn views(world: &World, history: &History, builds: &BTreeMap<String, String>) {
    let views = futures::stream::iter(builds.iter().enumerate())
        .map(|(number, (build, project))| async move {
            let path = format!("/v1/projects/{project}/builds/{build}");
            let answer = world.client.get(world.url(number % 2, &path)).send().await;
            let (status, view) = match answer {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    (Some(status), answer.json().await.unwrap_or(Value::Null))
                }
                Err(error) => (None, Value::String(error.to_string())),
            };
            let state = view.get("state").cloned().unwrap_or(Value::Null);
            let view = serde_json::json!({"state": state, "attempt": view["attempt"]});
            What::View { build: build.clone(), status, view }
        })
        .buffer_unordered(REQUEST_CONCURRENCY)
        .collect::<Vec<_>>()
        .await;
    views.into_iter().for_each(|view| history.note(view));
}

async fn logs(world: &World, history: &History, builds: BTreeMap<String, String>) {
    // What is still in the stream is in the log now or soon. What is no longer in the stream was
    // archived before.
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let read = observer::read_all(Source::Logs, &world.nats_url, 0, |_, what| {
        if let What::Chunk(chunk) = what {
            said.entry(chunk.build).or_default().push(chunk.text);
        }
    });
    let _without_them = read.await;
    let said = &said;
    let read = builds.into_iter().enumerate().map(|(number, (build, project))| async move {
        let url = world.url(number % 2, &format!("/v1/projects/{project}/builds/{build}/logs"));
        let said = said.get(&build).map(Vec::as_slice).unwrap_or_default();
        let begun = Instant::now();
        let text = loop {
            let text = log(world, &url).await;
            let is_whole = |text: &String| said.iter().all(|chunk| text.contains(chunk.as_str()));
            if text.as_ref().is_none_or(is_whole) || begun.elapsed() > LATE_LINES_DEADLINE {
                break text;
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        };
        history.note(What::HttpLog { build, text });
    });
    futures::stream::iter(read).buffer_unordered(REQUEST_CONCURRENCY).collect::<()>().await;
}

async fn log(world: &World, url: &str) -> Option<String> {
    let answer = world.client.get(url).send().await.ok()?;
    if answer.status().is_success() { answer.text().await.ok() } else { None }
}
