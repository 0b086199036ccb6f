// SPDX-License-Identifier: Apache-2.0

//! Many builds at once on two slots: they may not take longer together than one after the other.
//! Beside them, curl sends their artifacts to the same registry, also two at a time: where that
//! alone takes longer than half of the time of one after the other, the machine is the bound.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;
use slipway_proto::Digest;

use super::floor;
use super::measure::run;
use super::place::{BASE, Place};
use super::{Bench, POOL, write};
use crate::inputs::{BootJar, Key};
use crate::machine::settle;
use crate::memory::{self, Reserve};
use crate::row::{Goal, Row, number};
use crate::samples::{float, median, milliseconds};

/// How often one build alone is measured.
const ALONE: u32 = 5;
/// What two slots may take above half of the builds one after the other (design, section 11).
const COLLAPSE: f64 = 1.1;

/// How many bytes of memory are kept at hand for each byte of the artifacts: the registry writes
/// them once, and the file system and the kernel's other work want some as well.
const WRITTEN: u64 = 2;

/// Returns the artifact that a build request names.
fn artifact(document: &Value) -> anyhow::Result<Digest> {
    let artifact = document["artifact"].as_str().context("a digest")?;
    artifact.parse().context("a digest")
}

impl Bench {
    /// Measures one build alone, then 20 and 100 at once.
    pub(super) async fn queued(&mut self) -> anyhow::Result<()> {
        let directory = self.part("queued")?;
        let place = Place::with_base(directory.path(), &self.base).await?;
        let alone = self.documents(&place, directory.path(), "alone", ALONE + 1).await?;
        let mut times = Vec::new();
        for document in &alone {
            memory::at_hand().await?;
            settle(self.settle).await;
            let (wall, images) = self.all(std::slice::from_ref(document)).await?;
            times.push(wall);
            self.check_all(&images).await;
        }
        // The first one has the base image's manifest to fetch.
        let one = median(times.into_iter().skip(1));
        self.rows.push(Row {
            section: "Builds in the queue, two slots",
            name: "one alone".to_owned(),
            cells: vec![("ms", number(one)), ("ms per build", number(one))],
            goals: Vec::new(),
        });
        let counts: &[u32] = if self.options.quick { &[20] } else { &[20, 100] };
        for count in counts {
            let name = format!("{count}-at-once");
            let documents = self.documents(&place, directory.path(), &name, *count).await?;
            let memory = self.at_hand(&documents).await?;
            let busy = settle(self.settle).await;
            let (wall, images) = self.all(&documents).await?;
            drop(memory);
            self.check_all(&images).await;
            let floor = self.two_at_a_time(&place, directory.path(), &documents).await?;
            let (count, bound) = (float(u64::from(*count)), float(u64::from(*count)) / 2.0 * one);
            eprintln!("bench: {count} queued: {wall:.0} ms, one alone {one:.0} ms");
            self.rows.push(Row {
                section: "Builds in the queue, two slots",
                name: format!("{count} at once"),
                cells: vec![
                    ("ms", number(wall)),
                    ("ms per build", number(wall / count)),
                    ("of half of them alone", number(wall / bound)),
                    ("of curl, two at a time", number(wall / floor)),
                    ("busy", if busy { "yes" } else { "" }.to_owned()),
                ],
                goals: vec![Goal::at_most("no collapse", COLLAPSE * bound, wall, "ms")],
            });
        }
        Ok(())
    }

    /// Brings many builds to where one alone begins: their artifacts are in the page cache, as
    /// after their upload, and what they write finds memory that the machine holds.
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

    /// Uploads as many JARs as wanted, each of its own bytes, and returns the requests for their
    /// images, each in its own repository.
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

    /// Submits builds and waits for all of them; returns how long that took, in milliseconds, and
    /// their images, by digest.
    async fn all(&mut self, documents: &[Value]) -> anyhow::Result<(f64, Vec<String>)> {
        let begun = Instant::now();
        let mut builds = Vec::new();
        for document in documents {
            builds.push(self.fleet.submit(document).await?);
        }
        let (mut last, mut images) = (begun, Vec::new());
        for build in builds {
            let (finished, image) = self.fleet.image(build).await?;
            last = last.max(finished);
            let reference = image.references.first().context("an image has no tag")?;
            images.push(reference.with_digest(image.digest).to_string());
        }
        Ok((milliseconds(last.saturating_duration_since(begun)), images))
    }
}
