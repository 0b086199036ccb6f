// SPDX-License-Identifier: Apache-2.0

//! One digest, wherever an image is built.

use std::collections::BTreeMap;

use super::build::digest_of;
use super::place::{BASE, Place};
use super::{Bench, POOL, measure, write};
use crate::inputs::{BootJar, Key};
use crate::row::{Goal, Row};

/// The pool of the other worker.
const OTHER: &str = "other";

impl Bench {
    /// Builds one JAR in four ways.
    pub(super) async fn digests(&mut self) -> anyhow::Result<()> {
        let directory = self.part("digests")?;
        let place = Place::with_base(directory.path(), &self.base).await?;
        let file = directory.path().join("app.jar");
        let (path, key) = (file.clone(), Key::new(self.options.seed, "digests", "", 0));
        write(move || BootJar::of_46_mb(key).write(&path)).await?;
        let (artifact, _) = self.fleet.upload(&file).await?;
        let host = place.registry.address.clone();
        let base = format!("{host}/{BASE}");
        let target = |name: &str| format!("{host}/digests/{name}:latest");
        let mut digests: BTreeMap<&str, String> = BTreeMap::new();

        self.fleet.add_worker(OTHER).await?;
        for (name, pool) in [("a worker", POOL), ("another worker", OTHER)] {
            let document = Self::document(artifact, &target(pool), &base, pool);
            let build = self.fleet.submit(&document).await?;
            let (_, image) = self.fleet.image(build).await?;
            digests.insert(name, image.digest.to_string());
        }
        self.fleet.remove_worker(OTHER).await;

        let local = self.local_command(&file, &target("local"), &base, "digests");
        let mut layout = self.local_command(&file, &target("layout"), &base, "digests");
        layout.retain(|word| word != "--local");
        layout.push(format!("--to=oci:{}", directory.path().join("layout").display()));
        for (name, words) in [("--local", local), ("--to oci:", layout)] {
            let (_, printed) = measure::run(&self.directory, vec![words]).await?;
            digests.insert(name, digest_of(&printed)?);
        }

        let digest = digests["a worker"].clone();
        self.check(&format!("{host}/digests/{POOL}@{digest}")).await;
        let met = digests.values().all(|other| *other == digest);
        let seen = if met { digest } else { format!("{digests:?}") };
        self.rows.push(Row {
            section: "Digests",
            name: "JAR of 46 MB".to_owned(),
            cells: vec![("built by", digests.into_keys().collect::<Vec<_>>().join(", "))],
            goals: vec![Goal::fact("one digest", seen, met)],
        });
        Ok(())
    }
}
