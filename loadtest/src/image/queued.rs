// SPDX-License-Identifier: Apache-2.0

//! Many builds at once on two slots: how long they take together, compared with curl sending the
//! same artifacts to the same registry two at a time; and how long the slowest takes, compared with
//! builds that have the two slots to themselves.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;
use slipway_proto::Digest;

use super::floor;
use super::measure::{Meter, run};
use super::place::{BASE, Place};
use super::{Bench, POOL, write};
use crate::goals;
use crate::inputs::{BootJar, Key};
use crate::machine::settle;
use crate::memory::{self, Reserve};
use crate::row::{Goal, Row, number};
use crate::samples::{float, median, milliseconds};

const SECTION: &str = "Builds in the queue, two slots";
/// How often one build alone, and two builds alone, are measured.
const ALONE: u32 = 5;
/// The slots of the worker.
const SLOTS: u32 = 2;

/// How many bytes of memory are prepared for each byte of the artifacts: the registry writes them
/// once, and the file system and the kernel need some as well.
const WRITTEN: u64 = 2;

/// The result of some builds at once.
struct Together {
    /// From the first submission to the last outcome, in milliseconds.
    wall_ms: f64,
    /// How long each build ran, in milliseconds, the shortest first.
    ran_ms: Vec<f64>,
    /// The worker's peak memory above idle, in MiB.
    peak_mib: f64,
    /// The images, by their digests.
    images: Vec<String>,
}

impl Together {
    fn slowest_ms(&self) -> f64 {
        self.ran_ms.last().copied().unwrap_or(f64::NAN)
    }
}

/// Returns the artifact that a build request names.
fn artifact(document: &Value) -> anyhow::Result<Digest> {
    let artifact = document["artifact"].as_str().context("a digest")?;
    artifact.parse().context("a digest")
}

impl Bench {
    /// Measures one build alone and two alone, then 20 and 100 at once.
    pub(super) async fn queued(&mut self) -> anyhow::Result<()> {
        let directory = self.part("queued")?;
        let place = Place::with_base(directory.path(), &self.base).await?;
        self.alone(&place, directory.path(), 1).await?;
        let alone_ms = self.alone(&place, directory.path(), SLOTS).await?;
        let counts: &[u32] = if self.options.quick { &[20] } else { &[20, 100] };
        for count in counts {
            // The goals are for the greatest count.
            let is_held = Some(count) == counts.last();
            self.at_once(&place, directory.path(), *count, alone_ms, is_held).await?;
        }
        Ok(())
    }

    /// Measures builds that have the slots to themselves; returns how long such a build runs, in
    /// milliseconds.
    async fn alone(
        &mut self,
        place: &Place,
        directory: &Path,
        together: u32,
    ) -> anyhow::Result<f64> {
        let name = format!("{together}-alone");
        // The first ones fetch the base image's manifest.
        let documents = self.documents(place, directory, &name, (ALONE + 1) * together).await?;
        let (mut walls, mut ran, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        for (round, some) in documents.chunks(together as usize).enumerate() {
            memory::at_hand().await?;
            settle(self.settle).await;
            let all = self.all(some).await?;
            if round > 0 {
                walls.push(all.wall_ms);
                ran.extend_from_slice(&all.ran_ms);
                peaks.push(all.peak_mib);
            }
            self.check_all(&all.images).await;
        }
        let (wall, alone) = (median(walls), median(ran));
        let peak = peaks.into_iter().reduce(f64::max).unwrap_or(f64::NAN);
        self.rows.push(Row {
            section: SECTION,
            name: format!("{together} alone"),
            cells: vec![
                ("ms", number(wall)),
                ("ms per build", number(wall / f64::from(together))),
                ("a build runs ms", number(alone)),
                ("MiB per slot", number(peak / f64::from(together))),
            ],
            goals: Vec::new(),
        });
        Ok(alone)
    }

    /// Measures many builds at once, and holds them against the goals if `is_held`.
    async fn at_once(
        &mut self,
        place: &Place,
        directory: &Path,
        count: u32,
        alone_ms: f64,
        is_held: bool,
    ) -> anyhow::Result<()> {
        let name = format!("{count}-at-once");
        let documents = self.documents(place, directory, &name, count).await?;
        let memory = self.at_hand(&documents).await?;
        let busy = settle(self.settle).await;
        let all = self.all(&documents).await?;
        drop(memory);
        self.check_all(&all.images).await;
        let floor_ms = self.two_at_a_time(place, directory, &documents).await?;
        eprintln!("bench: {count} queued: {:.0} ms, curl {floor_ms:.0} ms", all.wall_ms);
        let (of_curl, slowest) = (all.wall_ms / floor_ms, all.slowest_ms() / alone_ms);
        let per_slot = all.peak_mib / f64::from(SLOTS);
        let goals = [
            Goal::at_most("time of curl's, two at a time", goals::TOGETHER, of_curl, "x"),
            Goal::at_most(
                "slowest build of one alone with two slots",
                goals::SLOWEST,
                slowest,
                "x",
            ),
            Goal::at_most("memory of a slot above idle", goals::SLOT_MIB, per_slot, "MiB"),
        ];
        self.rows.push(Row {
            section: SECTION,
            name: format!("{count} at once"),
            cells: vec![
                ("ms", number(all.wall_ms)),
                ("ms per build", number(all.wall_ms / f64::from(count))),
                ("a build runs ms", number(median(all.ran_ms.iter().copied()))),
                ("the slowest ms", number(all.slowest_ms())),
                ("MiB per slot", number(per_slot)),
                ("of curl, two at a time", number(of_curl)),
                ("the slowest of alone", number(slowest)),
                ("busy", if busy { "yes" } else { "" }.to_owned()),
            ],
            goals: if is_held { goals.to_vec() } else { Vec::new() },
        });
        Ok(())
    }

    /// Gives many builds the conditions of a single one: their artifacts are in the page cache, as
    /// after an upload, and their writes find memory that the machine holds.
    async fn at_hand(&self, documents: &[Value]) -> anyhow::Result<Reserve> {
        let mut artifacts = Vec::new();
        for document in documents {
            artifacts.push(self.fleet.artifact(artifact(document)?));
        }
        let read = move || {
            let mut bytes = 0;
            for artifact in artifacts {
                bytes += io::copy(&mut File::open(artifact)?, &mut io::sink())?;
            }
            Reserve::of(WRITTEN * bytes)
        };
        Ok(tokio::task::spawn_blocking(read).await.context("failed to read the artifacts")??)
    }

    /// Sends the artifacts of builds with curl, two at a time; returns how long that took, in
    /// milliseconds.
    async fn two_at_a_time(
        &self,
        place: &Place,
        directory: &Path,
        documents: &[Value],
    ) -> anyhow::Result<f64> {
        let mut lanes = [Vec::new(), Vec::new()];
        for (number, document) in documents.iter().enumerate() {
            let digest = artifact(document)?;
            let host = &place.registry.address;
            let (_, location) = floor::open(directory, host, "queued/floor", digest).await?;
            lanes[number % 2].push(floor::send(&self.fleet.artifact(digest), &location));
        }
        let (one, other) = (self.part("lane")?, self.part("lane")?);
        let _memory = self.at_hand(documents).await?;
        settle(self.settle).await;
        let begun = Instant::now();
        let [first, second] = lanes;
        tokio::try_join!(run(one.path(), first), run(other.path(), second))?;
        Ok(milliseconds(begun.elapsed()))
    }

    /// Uploads `count` JARs, each with bytes of its own, and returns the requests for their images,
    /// each in a repository of its own.
    async fn documents(
        &mut self,
        place: &Place,
        directory: &Path,
        name: &str,
        count: u32,
    ) -> anyhow::Result<Vec<Value>> {
        let mut documents = Vec::new();
        let file = directory.join("app.jar");
        for number in 0..count {
            let key = Key::new(self.options.seed, "queued", name, number);
            let path = file.clone();
            write(move || BootJar::of_46_mb(key).write(&path)).await?;
            let (artifact, _) = self.fleet.upload(&file).await?;
            let host = &place.registry.address;
            let target = format!("{host}/queued/{name}-{number}:latest");
            documents.push(Self::document(artifact, &target, &format!("{host}/{BASE}"), POOL));
        }
        Ok(documents)
    }

    async fn check_all(&mut self, images: &[String]) {
        for image in images {
            self.check(image).await;
        }
    }

    /// Submits builds and waits for all of them.
    async fn all(&mut self, documents: &[Value]) -> anyhow::Result<Together> {
        let (worker, idle) = self.fleet.worker(POOL)?;
        let meter = Meter::start(&[worker], worker, idle)?;
        let begun = Instant::now();
        let mut builds = Vec::new();
        for document in documents {
            builds.push(self.fleet.submit(document).await?);
        }
        let (mut last, mut ran, mut images) = (begun, Vec::new(), Vec::new());
        for build in builds {
            let ended = self.fleet.outcome(build).await?;
            let image =
                ended.image.map_err(|failure| anyhow::anyhow!("build {build}: {failure}"))?;
            last = last.max(ended.at);
            ran.push(ended.ran.context("a finished build has started")?);
            let reference = image.references.first().context("an image has no tag")?;
            images.push(reference.with_digest(image.digest).to_string());
        }
        ran.sort_unstable();
        Ok(Together {
            wall_ms: milliseconds(last.saturating_duration_since(begun)),
            ran_ms: ran.into_iter().map(milliseconds).collect(),
            peak_mib: float(meter.stop()?.peak_bytes) / f64::from(1 << 20),
            images,
        })
    }
}
