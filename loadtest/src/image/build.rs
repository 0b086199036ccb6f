// SPDX-License-Identifier: Apache-2.0

//! One measured build: what is prepared before the clock starts, the build, and its cost.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_proto::outcome::Image;

use super::Bench;
use super::floor;
use super::measure::{self, Cost, Meter, memory_bytes};
use super::place::line;
use super::requests::named;
use super::variants::{POST, UPLOAD};
use super::variants::{Task, Variant, buildah, umoci};
use crate::machine::settle;
use crate::memory;
use crate::samples::{Sample, float, milliseconds};

/// The result of a build.
#[derive(Debug, Default)]
struct Built {
    cost: Cost,
    /// The image, where the program describes it.
    image: Option<Box<Image>>,
    /// The digest of its manifest, where the program names it.
    digest: Option<String>,
}

/// What is ready before the clock starts.
enum Prepared {
    Floor { location: String },
    Queue { artifact: Digest },
    Local,
    Umoci { layout: PathBuf },
    Buildah { container: String },
}

impl Bench {
    /// Builds an image and keeps what it cost as a sample.
    pub(super) async fn measure(&mut self, variant: Variant, task: Task<'_>) -> anyhow::Result<()> {
        let name = variant.name();
        let what = || format!("{name}, {}, round {}", task.scenario, task.round);
        let prepared = self.prepare(variant, task).await.with_context(what)?;
        memory::at_hand().await?;
        let busy = settle(self.settle).await;
        let (mark, sent) = (task.place.registry.mark().await, task.place.proxy.sent());
        let Built { cost, image, digest } =
            self.perform(&prepared, task).await.with_context(what)?;
        let requests = task.place.registry.since(mark).await;
        let sent = (task.round == 0).then(|| task.place.proxy.sent() - sent);
        eprintln!("bench: {}: {:.0} ms{}", what(), cost.wall_ms, if busy { ", busy" } else { "" });
        self.samples.push(Sample {
            scenario: task.scenario,
            variant: name,
            round: task.round,
            slot: task.slot,
            wall_ms: cost.wall_ms,
            cpu_ms: cost.cpu_ms,
            peak_bytes: Some(cost.peak_bytes),
            requests: Some(requests.len()),
            named: image.as_ref().map_or_else(Vec::new, |image| named(&requests, image)),
            sent_bytes: sent,
            busy,
            digest: digest.clone(),
            stages: image.map_or_else(Vec::new, |image| stages(&image)),
        });
        self.clean(&prepared).await.with_context(what)?;
        if let Some(digest) = digest {
            let host = &task.place.registry.address;
            self.check(&format!("{host}/{}@{digest}", task.repository)).await;
        }
        Ok(())
    }

    async fn prepare(&mut self, variant: Variant, task: Task<'_>) -> anyhow::Result<Prepared> {
        match variant {
            Variant::Floor => {
                let (digest, _) = slipway_artifact::digest_file(task.file)?;
                let opened = floor::open(&self.directory, task.host(), task.repository, digest);
                let (cost, location) = opened.await?;
                self.note(task, POST, cost);
                Ok(Prepared::Floor { location })
            }
            Variant::Queue => {
                let dispatcher = self.fleet.dispatcher.id();
                let idle = memory_bytes(dispatcher)?;
                let meter = Meter::start(&[dispatcher], dispatcher, idle)?;
                let (artifact, wall) = self.fleet.upload(task.file).await?;
                let cost = Cost { wall_ms: milliseconds(wall), ..meter.stop()? };
                self.note(task, UPLOAD, cost);
                Ok(Prepared::Queue { artifact })
            }
            Variant::Local => Ok(Prepared::Local),
            Variant::Umoci => {
                let layout = self.directory.join("umoci-layout");
                // Nothing is left there, unless a run was interrupted.
                let _nothing_there = std::fs::remove_dir_all(&layout);
                let from = task.place.template(task.host()).display().to_string();
                let copy = line(&["cp", "-al", &from, &layout.display().to_string()]);
                measure::run(&self.directory, vec![copy]).await?;
                Ok(Prepared::Umoci { layout })
            }
            Variant::Buildah => {
                let container = format!("bench-{}", Digest::of(task.repository.as_bytes()));
                Ok(Prepared::Buildah { container: container.replace(':', "-") })
            }
        }
    }

    /// Keeps the cost of what was done before the clock started.
    fn note(&mut self, task: Task<'_>, variant: &'static str, cost: Cost) {
        let Task { scenario, round, slot, .. } = task;
        let (wall_ms, cpu_ms) = (cost.wall_ms, cost.cpu_ms);
        let peak_bytes = Some(cost.peak_bytes);
        let sample = Sample {
            scenario,
            variant,
            round,
            slot,
            wall_ms,
            cpu_ms,
            peak_bytes,
            ..Sample::default()
        };
        self.samples.push(sample);
    }

    async fn perform(&mut self, prepared: &Prepared, task: Task<'_>) -> anyhow::Result<Built> {
        let commands = match prepared {
            Prepared::Queue { artifact } => return self.perform_queued(*artifact, task).await,
            Prepared::Local => return self.perform_locally(task).await,
            Prepared::Floor { location } => vec![floor::send(task.file, location)],
            Prepared::Umoci { layout } => umoci(&task, layout),
            Prepared::Buildah { container } => buildah(&task, &self.storage, container)?,
        };
        let (cost, _) = measure::run(&self.directory, commands).await?;
        Ok(Built { cost, ..Built::default() })
    }

    async fn perform_queued(&mut self, artifact: Digest, task: Task<'_>) -> anyhow::Result<Built> {
        let (worker, idle) = self.fleet.worker(task.pool)?;
        let document = Self::document(artifact, &task.target(), &task.base(), task.pool);
        let meter = Meter::start(&[worker, self.fleet.dispatcher.id()], worker, idle)?;
        let begun = Instant::now();
        let build = self.fleet.submit(&document).await?;
        let (finished, image) = self.fleet.image(build).await?;
        // The worker still waits for its acknowledgement, and the registry writes its log.
        task.place.registry.mark().await;
        let cost = meter.stop()?;
        let wall_ms = milliseconds(finished.saturating_duration_since(begun));
        let digest = Some(image.digest.to_string());
        Ok(Built { cost: Cost { wall_ms, ..cost }, digest, image: Some(image) })
    }

    async fn perform_locally(&mut self, task: Task<'_>) -> anyhow::Result<Built> {
        let words = self.local_command(task.file, &task.target(), &task.base(), task.pool);
        let (cost, printed) = measure::run(&self.directory, vec![words]).await?;
        Ok(Built { cost, digest: Some(digest_of(&printed)?), ..Built::default() })
    }

    /// Returns the request for a build in a pool.
    pub(super) fn document(artifact: Digest, target: &str, base: &str, pool: &str) -> Value {
        json!({"artifact": artifact, "image": target, "base": base, "pool": pool})
    }

    /// Returns the command that builds without a server; its cache has a name.
    pub(super) fn local_command(
        &self,
        file: &Path,
        target: &str,
        base: &str,
        cache: &str,
    ) -> Vec<String> {
        let slipway = self.programs.join("slipway").display().to_string();
        let cache = self.local_cache(cache).display().to_string();
        let file = file.display().to_string();
        line(&[
            &slipway,
            "--output",
            "json",
            "build",
            &file,
            "--image",
            target,
            "--base",
            base,
            "--local",
            "--cache-dir",
            &cache,
        ])
    }

    /// Returns where `--local` keeps a cache of that name.
    pub(super) fn local_cache(&self, name: &str) -> PathBuf {
        self.directory.join(format!("local-cache-{name}"))
    }

    async fn clean(&mut self, prepared: &Prepared) -> anyhow::Result<()> {
        match prepared {
            Prepared::Floor { .. } | Prepared::Queue { .. } | Prepared::Local => Ok(()),
            Prepared::Umoci { layout } => {
                std::fs::remove_dir_all(layout).context("the layout cannot be removed")
            }
            Prepared::Buildah { container } => {
                let buildah = |words: &[&str]| [&self.storage[..], &line(words)].concat();
                let commands = vec![buildah(&["rm", container]), buildah(&["rmi", container])];
                measure::run(&self.directory, commands).await.map(drop)
            }
        }
    }
}

/// Returns the stages of a build with their milliseconds.
fn stages(image: &Image) -> Vec<(&'static str, f64)> {
    let stages = image.stages.iter();
    stages.map(|time| (time.stage.as_str(), float(time.duration_us) / 1000.0)).collect()
}

/// Returns the digest in what `slipway build --output json` printed.
pub(super) fn digest_of(printed: &str) -> anyhow::Result<String> {
    let view: Value = serde_json::from_str(printed).context("slipway printed no JSON")?;
    let digest = view["image"]["digest"].as_str();
    Ok(digest.with_context(|| format!("there is no image in {printed}"))?.to_owned())
}
