// SPDX-License-Identifier: Apache-2.0

//! Checks images with other programs: skopeo copies them and verifies every digest, umoci unpacks
//! them strictly, podman pulls them into its storage and verifies every layer.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Bench;
use super::measure;
use super::place::line;
use crate::row::{Goal, Row};

/// The images that were checked, and the results.
#[derive(Debug, Default)]
pub(super) struct Checks {
    seen: HashSet<String>,
    copied: usize,
    pulled: usize,
    failures: Vec<String>,
}

impl Bench {
    /// Checks an image, named by its digest, unless it was checked before.
    pub(super) async fn check(&mut self, image: &str) {
        if !self.checks.seen.insert(image.to_owned()) {
            return;
        }
        match self.unpack(image).await {
            Ok(()) => self.checks.copied += 1,
            Err(error) => self.checks.failures.push(format!("{image}: {error:#}")),
        }
        match self.pull(image).await {
            Ok(()) => self.checks.pulled += 1,
            Err(error) => self.checks.failures.push(format!("{image}: {error:#}")),
        }
    }

    async fn unpack(&self, image: &str) -> anyhow::Result<()> {
        let directory = tempfile::tempdir_in(&self.directory)?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (from, to) = (format!("docker://{image}"), format!("oci:{}:image", path("layout")));
        let unpacked = format!("{}:image", path("layout"));
        let commands = vec![
            line(&["skopeo", "copy", "--quiet", "--src-tls-verify=false", &from, &to]),
            line(&["umoci", "unpack", "--rootless", "--image", &unpacked, &path("bundle")]),
        ];
        measure::run(&self.directory, commands).await?;
        let files = directory.path().join("bundle/rootfs");
        anyhow::ensure!(files.join("usr/lib/l1/0.so").is_file(), "the base's files are missing");
        Ok(())
    }

    async fn pull(&self, image: &str) -> anyhow::Result<()> {
        let root = self.directory.join("podman");
        let path = |name: &str| root.join(name).display().to_string();
        let podman = [
            "podman",
            "--root",
            &path("root"),
            "--runroot",
            &path("run"),
            "--tmpdir",
            &path("tmp"),
            "--events-backend=none",
            "--runtime",
            "runc",
            "--cgroup-manager=cgroupfs",
            "--storage-driver=overlay",
        ]
        .map(str::to_owned);
        let podman = |words: &[&str]| [&podman[..], &line(words)].concat();
        let commands = vec![
            podman(&["pull", "--quiet", "--tls-verify=false", image]),
            podman(&["rmi", "--force", image]),
        ];
        measure::run(&self.directory, commands).await.map(drop)
    }

    /// Returns the row of all checks, if there were some.
    pub(super) fn checked(&self) -> Option<Row> {
        let Checks { seen, copied, pulled, failures, .. } = &self.checks;
        if seen.is_empty() {
            return None;
        }
        for failure in failures {
            eprintln!("bench: check failed: {failure}");
        }
        let cells = vec![
            ("copied and unpacked", copied.to_string()),
            ("pulled by podman", pulled.to_string()),
            ("failed", failures.len().to_string()),
        ];
        let seen = failures.first().cloned().unwrap_or_else(|| format!("all {copied}"));
        let met = failures.is_empty();
        Some(Row {
            section: "Outside checks",
            name: "images of Slipway".to_owned(),
            cells,
            goals: vec![Goal::fact("skopeo, umoci and podman read every image", seen, met)],
        })
    }

    /// Unmounts the storage of podman and buildah.
    pub(super) fn unmount(&self) {
        let mounted = ["podman/root/overlay", "buildah/root/overlay"];
        for path in mounted.map(|path| -> PathBuf { self.directory.join(path) }) {
            // It is not mounted if neither of them ran.
            let _not_mounted = std::process::Command::new("umount").arg(path).output();
        }
    }
}
