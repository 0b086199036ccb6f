// SPDX-License-Identifier: Apache-2.0

//! The base image in another registry, so that its layers have to be moved. With a cold cache they
//! have to be downloaded, with a warm one the worker has them, and the target lacks them either way.

use super::place::{BASE, Place, line};
use super::variants::{Task, Variant};
use super::{Bench, POOL, measure, write};
use crate::inputs::{BootJar, Key};

/// With an empty cache.
pub(super) const COLD: &str = "base elsewhere, cold cache";
/// With the base's layers in the cache.
pub(super) const WARM: &str = "base elsewhere, warm cache";
/// The pool of the worker, and the name of the cache, that start empty.
const FRESH: &str = "fresh";

impl Bench {
    /// Measures both.
    pub(super) async fn elsewhere(&mut self) -> anyhow::Result<()> {
        let directory = self.part("elsewhere")?;
        let other = Place::with_base(&directory.path().join("other"), &self.base).await?;
        self.warm(&other, directory.path()).await?;
        for round in 0..=self.options.rounds() {
            // A new registry each time, because the last one could mount the layers by now.
            let path = directory.path().join(format!("round-{round}"));
            let mut order = [
                (COLD, Variant::Queue, FRESH),
                (COLD, Variant::Local, FRESH),
                (WARM, Variant::Queue, POOL),
                (WARM, Variant::Local, POOL),
            ];
            self.random.shuffle(&mut order);
            for (slot, (scenario, variant, pool)) in order.into_iter().enumerate() {
                let place = Place::empty(&path.join(slot.to_string())).await?;
                if pool == FRESH {
                    let _nothing_there = std::fs::remove_dir_all(self.local_cache(FRESH));
                    self.fleet.add_worker(FRESH).await?;
                }
                let file = path.join("app.jar");
                let key = Key::new(self.options.seed, scenario, variant.name(), round);
                let written = file.clone();
                write(move || BootJar::of_46_mb(key).write(&written)).await?;
                let task = Task {
                    scenario,
                    round,
                    slot,
                    place: &place,
                    base_host: Some(&other.registry.address),
                    file: &file,
                    repository: "elsewhere/app",
                    pool,
                };
                self.measure(variant, task).await?;
                self.fleet.remove_worker(FRESH).await;
                drop(place);
                std::fs::remove_dir_all(path.join(slot.to_string()))?;
            }
        }
        Ok(())
    }

    /// Fills the caches of the permanent worker and of `--local`.
    async fn warm(&mut self, other: &Place, directory: &std::path::Path) -> anyhow::Result<()> {
        let place = Place::empty(&directory.join("warm")).await?;
        let file = directory.join("warm.jar");
        let (path, key) = (file.clone(), Key::new(self.options.seed, "warm", "", 0));
        write(move || BootJar::of_46_mb(key).write(&path)).await?;
        let (artifact, _) = self.fleet.upload(&file).await?;
        let base = format!("{}/{BASE}", other.registry.address);
        let target = |name: &str| format!("{}/warm/{name}:latest", place.registry.address);
        let document = Self::document(artifact, &target("queue"), &base, POOL);
        let build = self.fleet.submit(&document).await?;
        self.fleet.image(build).await?;
        let local = self.local_command(&file, &target("local"), &base, POOL);
        measure::run(&self.directory, vec![local]).await?;
        measure::run(&self.directory, vec![line(&["rm", "--", &file.display().to_string()])])
            .await?;
        Ok(())
    }
}
