// SPDX-License-Identifier: Apache-2.0

//! Other inputs, new: a WAR of 50 MB, binaries of 20 and 300 MB.

use std::io;
use std::path::Path;

use super::jar::{ALL, repository_name};
use super::place::Place;
use super::variants::{Task, Variant};
use super::{Bench, POOL, write};
use crate::inputs::{Key, write_binary, write_war};

/// The WAR.
pub(super) const WAR: &str = "WAR of 50 MB";
/// The small binary.
pub(super) const SMALL: &str = "binary of 20 MB";
/// The large one, which shows that memory does not depend on the artifact's size.
pub(super) const LARGE: &str = "binary of 300 MB";
/// The size of the large binary, in bytes.
pub(super) const LARGE_BYTES: u64 = 300_000_000;
const SMALL_BYTES: u64 = 20_000_000;
/// Rounds of the large binary. More would take minutes without showing more.
const LARGE_ROUNDS: u32 = 3;

impl Bench {
    /// Measures all of them.
    pub(super) async fn inputs(&mut self) -> anyhow::Result<()> {
        let scenarios: &[&str] = if self.options.quick { &[SMALL] } else { &[WAR, SMALL, LARGE] };
        for scenario in scenarios {
            let directory = self.part("inputs")?;
            let place = Place::with_base(directory.path(), &self.base).await?;
            place.prepare_peers(&self.storage).await?;
            let most = if *scenario == LARGE { LARGE_ROUNDS } else { u32::MAX };
            for round in 0..=self.options.rounds().min(most) {
                let mut order = ALL;
                self.random.shuffle(&mut order);
                for (slot, variant) in order.into_iter().enumerate() {
                    self.input(&place, directory.path(), scenario, round, slot, variant).await?;
                }
            }
        }
        Ok(())
    }

    async fn input(
        &mut self,
        place: &Place,
        directory: &Path,
        scenario: &'static str,
        round: u32,
        slot: usize,
        variant: Variant,
    ) -> anyhow::Result<()> {
        let file = directory.join(if scenario == WAR { "app.war" } else { "app" });
        let key = Key::new(self.options.seed, scenario, variant.name(), round);
        let path = file.clone();
        write(move || write_input(scenario, key, &path)).await?;
        let repository = format!("input/{}-{round}", repository_name(variant));
        let task = Task {
            scenario,
            round,
            slot,
            place,
            base_host: None,
            file: &file,
            repository: &repository,
            pool: POOL,
        };
        self.measure(variant, task).await?;
        std::fs::remove_file(&file)?;
        Ok(())
    }
}

fn write_input(scenario: &str, key: Key, path: &Path) -> io::Result<()> {
    match scenario {
        WAR => write_war(key, path),
        SMALL => write_binary(key, SMALL_BYTES, path),
        _ => write_binary(key, LARGE_BYTES, path),
    }
}
