// SPDX-License-Identifier: Apache-2.0

//! The JAR of 46 MB, with its base image in the same registry: new, one class changed, nothing
//! changed.

use super::place::Place;
use super::variants::{Task, Variant};
use super::{Bench, POOL, write};
use crate::inputs::{BootJar, Key};

/// A JAR of fresh bytes.
pub(super) const NEW: &str = "new";
/// The same except for one class.
pub(super) const ONE_CLASS: &str = "one class changed";
/// The same JAR again.
pub(super) const NOTHING: &str = "nothing changed";

/// The programs that build it.
pub(super) const ALL: [Variant; 5] =
    [Variant::Floor, Variant::Queue, Variant::Local, Variant::Umoci, Variant::Buildah];

impl Bench {
    /// Measures all three.
    pub(super) async fn jar(&mut self) -> anyhow::Result<()> {
        let directory = self.part("jar")?;
        let place = Place::with_base(directory.path(), &self.base).await?;
        place.prepare_peers(&self.storage).await?;
        for round in 0..=self.options.rounds() {
            let files = directory.path().join(format!("round-{round}"));
            for scenario in [NEW, ONE_CLASS, NOTHING] {
                let mut order = ALL;
                self.random.shuffle(&mut order);
                let order = order.into_iter().filter(|v| *v != Variant::Floor || scenario == NEW);
                for (slot, variant) in order.enumerate() {
                    let name = variant.name();
                    let repository = format!("jar/{}-{round}", repository_name(variant));
                    let key = Key::new(self.options.seed, "jar", name, round);
                    let jar = BootJar::of_46_mb(key);
                    let file = files.join(repository_name(variant)).join("app.jar");
                    std::fs::create_dir_all(file.parent().expect("it has a directory"))?;
                    let path = file.clone();
                    match scenario {
                        NEW => write(move || jar.write(&path)).await?,
                        ONE_CLASS => {
                            write(move || jar.with_one_class_changed().write(&path)).await?;
                        }
                        _ => {}
                    }
                    let task = Task {
                        scenario,
                        round,
                        slot,
                        place: &place,
                        base_host: None,
                        file: &file,
                        repository: &repository,
                        pool: POOL,
                    };
                    self.measure(variant, task).await?;
                }
            }
            std::fs::remove_dir_all(&files)?;
        }
        Ok(())
    }
}

/// Returns the name of a variant's repositories.
pub(super) fn repository_name(variant: Variant) -> &'static str {
    match variant {
        Variant::Floor => "floor",
        Variant::Queue => "queue",
        Variant::Local => "local",
        Variant::Umoci => "umoci",
        Variant::Buildah => "buildah",
    }
}
