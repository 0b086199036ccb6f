// SPDX-License-Identifier: Apache-2.0

//! The load generator: submits many builds at once, waits for all of them by the events, and says
//! how long each part took.
//!
//! It speaks to the dispatcher by the client that people use, so what it measures is what they
//! get. The builds differ in tag and label, so each has a manifest of its own to push.

pub mod bench;
mod elf;
mod report;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use slipway_client::{Client, ClientOptions, Progress, Upload};
use slipway_proto::{BuildId, Digest, ProjectName};
use tokio::task::JoinSet;
use url::Url;

pub use report::{Quantiles, Report};
use watch::Watch;

/// Submits builds and waits for them.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "slipway-loadtest", version)]
pub struct Options {
    /// Where the dispatcher is
    #[arg(long, env = "SLIPWAY_SERVER", default_value = "http://127.0.0.1:7070")]
    pub server: Url,
    /// The project that the builds belong to
    #[arg(long, env = "SLIPWAY_PROJECT", default_value = "loadtest")]
    pub project: ProjectName,
    /// The API token
    #[arg(long, env = "SLIPWAY_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The registry that images are pushed to
    #[arg(long, value_name = "HOST:PORT")]
    pub registry: String,
    /// How many builds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub builds: u64,
    /// How many submissions are under way at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub concurrency: u64,
    /// The artifact (default: a program of 129 bytes)
    #[arg(long, value_name = "FILE")]
    pub artifact: Option<PathBuf>,
    /// The environment (default: `scratch` without --artifact, else `auto`)
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// The longest time to wait for all builds, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

/// A build that was accepted.
#[derive(Debug, Clone, Copy)]
struct Submitted {
    build: BuildId,
    started: Instant,
    answered: Instant,
}

/// Runs the load and reports on it.
///
/// # Errors
///
/// When the load cannot be put on at all; a build that fails is no error, but in the report.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let client = Client::new(ClientOptions {
        server: options.server.clone(),
        project: options.project.clone(),
        token: options.token.clone().map(Into::into),
    })?;
    let directory = tempfile::tempdir().context("failed to make a temporary directory")?;
    let (artifact, environment) = match &options.artifact {
        Some(path) => (path.clone(), "auto"),
        None => {
            let path = directory.path().join("tiny");
            std::fs::write(&path, elf::tiny()).context("failed to write the artifact")?;
            (path, "scratch")
        }
    };
    let environment = options.environment.as_deref().unwrap_or(environment);
    let digest = upload(&client, &artifact).await?;

    let watch = Watch::start(&client).await?;
    let started = Instant::now();
    let load = Arc::new(Load {
        client: client.clone(),
        next: AtomicU64::new(0),
        builds: options.builds,
        run: BuildId::fresh(),
        registry: options.registry.clone(),
        environment: environment.to_owned(),
        digest,
    });
    let (submitted, refused) = submit_all(&load, options.concurrency).await;
    let submitting = started.elapsed();
    let deadline = started + Duration::from_secs(options.timeout);
    let outcomes = watch.wait_for(&client, &submitted, deadline).await;
    Ok(Report::new(options, &submitted, refused, &outcomes, submitting, started.elapsed()))
}

async fn upload(client: &Client, path: &Path) -> anyhow::Result<Digest> {
    let (digest, size_bytes) = slipway_artifact::digest_file(path)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let filename = path.file_name().context("the artifact has no name")?.to_string_lossy();
    let upload = Upload { path, filename: &filename, digest, size_bytes };
    let silent: Arc<dyn Progress> = Arc::new(());
    client.upload(upload, &silent).await.context("failed to upload the artifact")?;
    Ok(digest)
}

struct Load {
    client: Client,
    next: AtomicU64,
    builds: u64,
    run: BuildId,
    registry: String,
    environment: String,
    digest: Digest,
}

impl Load {
    fn document(&self, number: u64) -> Value {
        let Self { registry, run, .. } = self;
        json!({
            "artifact": self.digest,
            "image": format!("{registry}/loadtest/app:{run}-{number}"),
            "environment": self.environment,
            "labels": {"dev.slipway.loadtest": format!("{run}-{number}")},
        })
    }

    /// Submits builds one after the other until there are none left.
    async fn submit_some(&self) -> (Vec<Submitted>, Vec<String>) {
        let (mut submitted, mut refused) = (Vec::new(), Vec::new());
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.builds {
                return (submitted, refused);
            }
            let document = self.document(number);
            let key = format!("{}-{number}", self.run);
            let started = Instant::now();
            match self.client.submit(&document, &key).await {
                Ok(view) => {
                    let answered = Instant::now();
                    submitted.push(Submitted { build: view.id, started, answered });
                }
                Err(error) => refused.push(format!("build {number}: {error}")),
            }
        }
    }
}

async fn submit_all(load: &Arc<Load>, concurrency: u64) -> (Vec<Submitted>, Vec<String>) {
    let mut submitters = JoinSet::new();
    for _ in 0..concurrency.min(load.builds) {
        let load = Arc::clone(load);
        submitters.spawn(async move { load.submit_some().await });
    }
    let (mut submitted, mut refused) = (Vec::new(), Vec::new());
    for (some, none) in submitters.join_all().await {
        submitted.extend(some);
        refused.extend(none);
    }
    (submitted, refused)
}
