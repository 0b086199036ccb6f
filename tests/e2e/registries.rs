// SPDX-License-Identifier: Apache-2.0

//! What a registry may answer, and what a build makes of it: one test for each row of the table in
//! `docs/registry.md`.
//!
//! The builds run without a server, so that a test takes a second; what depends on the queue, such
//! as delays, is in `limits`.

mod bases;
mod credentials;
mod limits;
mod manifests;
mod matrix;
mod mounts;
mod tags;
mod tls;
mod ways;

use std::path::PathBuf;

use serde_json::Value;
use slipway_tests::artifacts;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, Seen};
use slipway_tests::process::{command, program};
use slipway_tests::registry::{Registry, RegistryProgram};
use tempfile::TempDir;

/// A real registry behind a faulty one.
struct Scene {
    real: Registry,
    faulty: FaultyRegistry,
    directory: TempDir,
}

/// A build that has ended.
#[derive(Debug)]
struct Built {
    is_good: bool,
    /// Its log and its outcome.
    says: String,
}

impl Built {
    fn good(self) -> Self {
        assert!(self.is_good, "{}", self.says);
        assert_eq!(self.attempts(), 1, "{}", self.says);
        self
    }

    /// Checks that it failed in its first attempt, and says why.
    fn failed_for(self, reason: &str) -> Self {
        assert!(!self.is_good, "{}", self.says);
        assert_eq!(self.attempts(), 1, "{}", self.says);
        assert!(self.says.contains(reason), "{reason}: {}", self.says);
        self
    }

    fn attempts(&self) -> usize {
        1 + self.says.matches("trying again in").count()
    }
}

impl Scene {
    async fn start() -> Self {
        Self::before(RegistryProgram::DockerRegistry).await
    }

    async fn before(program: RegistryProgram) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let real = Registry::start_program(program, &directory.path().join("registry")).await;
        let faulty = FaultyRegistry::before(&real.address, 1).await;
        Self { real, faulty, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.faulty.address())
    }

    /// Adds a rule for requests of a method whose path or query contains this.
    fn rule(&self, method: &'static str, path: &str, misbehaviour: Misbehaviour) {
        self.rule_times(method, path, misbehaviour, None);
    }

    fn rule_times(
        &self,
        method: &'static str,
        path: &str,
        misbehaviour: Misbehaviour,
        times: impl Into<Option<u32>>,
    ) {
        self.faulty.add_rule(Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: times.into(),
            probability: 1.0,
        });
    }

    /// Builds a program, without a base.
    async fn build(&self, marker: &str, image: &str) -> Built {
        self.build_with(marker, &self.image(image), &["--environment", "scratch"], &[]).await
    }

    /// Builds a program on a base.
    async fn build_on(&self, base: &str, image: &str) -> Built {
        self.build_with("on a base", &self.image(image), &["--base", &self.image(base)], &[]).await
    }

    /// Builds a program with more arguments and environment variables.
    async fn build_with(
        &self,
        marker: &str,
        image: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Built {
        let tool = artifacts::elf(62, marker);
        self.build_file("tool", tool, image, arguments, environment).await
    }

    /// Builds an artifact.
    async fn build_file(
        &self,
        name: &str,
        bytes: Vec<u8>,
        image: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Built {
        let tool = self.path(name);
        std::fs::write(&tool, bytes).expect("it can be written");
        let mut cli = command(program("slipway"));
        cli.arg("build").arg(&tool).args(["--image", image, "--local", "--follow"]);
        cli.arg("--cache-dir").arg(self.path("cache"));
        cli.args(arguments).env("HOME", self.directory.path()).envs(environment.iter().copied());
        let output = tokio::task::spawn_blocking(move || cli.output());
        let output = output.await.expect("it does not panic").expect("the client runs");
        let text = [output.stdout, output.stderr].concat();
        Built {
            is_good: output.status.success(),
            says: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// Returns the requests since the last call of `clear`.
    fn requests(&self, method: &str, path: &str) -> Vec<Seen> {
        let mut requests = self.faulty.requests();
        requests.retain(|seen| seen.method == method && seen.path.contains(path));
        requests
    }

    /// Returns the digest of the image under a tag.
    async fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let (_, digest) = self.real.manifest(repository, tag).await?;
        Some(digest.to_string())
    }

    async fn config(&self, repository: &str, tag: &str) -> Value {
        self.real.config(repository, tag).await
    }
}
