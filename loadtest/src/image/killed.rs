// SPDX-License-Identifier: Apache-2.0

//! The registry is killed in the middle of an upload. The build must succeed, with the same image.

use std::time::{Duration, Instant};

use slipway_proto::{BuildId, Digest};

use super::inputs::LARGE_BYTES;
use super::place::{BASE, Place};
use super::{Bench, POOL, write};
use crate::inputs::{Key, write_binary};
use crate::row::{Goal, Row, number};
use crate::samples::{float, milliseconds};

/// How large the unfinished upload is when the registry is killed, in bytes: about half of the
/// binary's layer.
const HALF: u64 = LARGE_BYTES / 4;
/// How often its size is checked.
const LOOK: Duration = Duration::from_millis(2);
/// How long the registry is away.
const AWAY: Duration = Duration::from_millis(500);

impl Bench {
    /// Measures a build that loses its registry, and builds the same image undisturbed, whose layers
    /// are mounted then, for its digest.
    pub(super) async fn killed(&mut self) -> anyhow::Result<()> {
        let directory = self.part("killed")?;
        let mut place = Place::with_base(directory.path(), &self.base).await?;
        let file = directory.path().join("app");
        let (path, key) = (file.clone(), Key::new(self.options.seed, "killed", "", 0));
        write(move || write_binary(key, LARGE_BYTES, &path)).await?;
        let (artifact, _) = self.fleet.upload(&file).await?;

        let before = place.proxy.sent();
        let begun = Instant::now();
        let build = self.build_through_proxy(&place, artifact, "killed/disturbed").await?;
        let killed = self.kill_in_the_middle(&mut place, build).await?;
        let ended = self.fleet.outcome(build).await?;
        let disturbed_ms = milliseconds(ended.at.saturating_duration_since(begun));
        let disturbed_bytes = place.proxy.sent() - before;

        let before = place.proxy.sent();
        let begun = Instant::now();
        let build = self.build_through_proxy(&place, artifact, "killed/undisturbed").await?;
        let (finished, image) = self.fleet.image(build).await?;
        let undisturbed_ms = milliseconds(finished.saturating_duration_since(begun));
        let undisturbed_bytes = place.proxy.sent() - before;
        let own = image.layers.iter().filter(|layer| !layer.base);
        let needed_bytes: u64 = own.map(|layer| layer.size_bytes).sum();

        let megabytes = |bytes: u64| number(float(bytes) / 1e6);
        let digest = ended.image.as_ref().map(|image| image.digest);
        let seen = match (&killed, &digest) {
            (None, _) => "the upload was over before it could be killed".to_owned(),
            (_, Ok(digest)) if *digest == image.digest => "the same".to_owned(),
            (_, Ok(_)) => "another image".to_owned(),
            (_, Err(failure)) => (*failure).clone(),
        };
        let met = killed.is_some() && digest == Ok(image.digest);
        if digest.is_ok() {
            let host = &place.registry.address;
            self.check(&format!("{host}/killed/disturbed@{}", image.digest)).await;
        }
        let section = "Registry killed in the middle of an upload, binary of 300 MB";
        self.rows.push(Row {
            section,
            name: "the same image into another repository, undisturbed".to_owned(),
            cells: vec![("ms", number(undisturbed_ms)), ("sent MB", megabytes(undisturbed_bytes))],
            goals: Vec::new(),
        });
        self.rows.push(Row {
            section,
            name: "killed, back after 500 ms".to_owned(),
            cells: vec![
                ("ms", number(disturbed_ms)),
                ("sent MB", megabytes(disturbed_bytes)),
                ("sent before the kill MB", killed.map_or_else(String::new, megabytes)),
                ("sent again MB", megabytes(disturbed_bytes.saturating_sub(needed_bytes))),
                ("attempts", ended.attempt.to_string()),
            ],
            goals: vec![Goal::fact("the build succeeds, with the same digest", seen, met)],
        });
        Ok(())
    }

    async fn build_through_proxy(
        &mut self,
        place: &Place,
        artifact: Digest,
        repository: &str,
    ) -> anyhow::Result<BuildId> {
        let host = &place.proxy.address;
        let target = format!("{host}/{repository}:latest");
        let document = Self::document(artifact, &target, &format!("{host}/{BASE}"), POOL);
        self.fleet.submit(&document).await
    }

    /// Kills the registry and starts it again; returns how much it had, if it was killed in time.
    async fn kill_in_the_middle(
        &mut self,
        place: &mut Place,
        build: BuildId,
    ) -> anyhow::Result<Option<u64>> {
        loop {
            let bytes = place.registry.upload_bytes("killed/disturbed");
            if bytes >= HALF {
                place.registry.kill();
                tokio::time::sleep(AWAY).await;
                place.registry.restart().await;
                return Ok(Some(bytes));
            }
            if self.fleet.has_ended(build) {
                return Ok(None);
            }
            // Cancelling it loses no event.
            if let Ok(heard) = tokio::time::timeout(LOOK, self.fleet.hear()).await {
                heard?;
            }
        }
    }
}
