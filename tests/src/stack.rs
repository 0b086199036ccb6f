// SPDX-License-Identifier: Apache-2.0

//! A whole Slipway for one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use slipway_proto::Digest;

use crate::http;
use crate::nats::{Nats, NatsOptions};
use crate::port::free_port;
use crate::process::{Process, command, program};
use crate::registry::Registry;
use crate::{artifacts, wait};

/// nats-server, registry, dispatcher and workers, with their data in one directory.
pub struct Stack {
    /// The registry.
    pub registry: Registry,
    /// The dispatcher's process.
    pub dispatcher: Process,
    /// The workers' processes.
    pub workers: Vec<Process>,
    /// The NATS server.
    pub nats: Nats,
    /// A client for the API.
    pub client: reqwest::Client,
    /// The directory of everything.
    pub directory: tempfile::TempDir,
    listen: String,
    dispatcher_options: Vec<String>,
    /// Environment variables of dispatchers that are started from now on.
    pub dispatcher_environment: Vec<(&'static str, &'static str)>,
}

/// How a worker is started.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Its name.
    pub id: &'static str,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Its environment variables.
    pub environment: Vec<(&'static str, &'static str)>,
    /// Its file mode creation mask, in octal.
    pub umask: Option<&'static str>,
}

impl Stack {
    /// Starts everything except workers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts everything except workers, the dispatcher with more options.
    ///
    /// # Panics
    ///
    /// When a directory cannot be made.
    pub async fn start_with(dispatcher_options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_in(directory, dispatcher_options).await
    }

    /// Starts everything except workers, with its data in a directory and that of NATS in `nats`
    /// below it.
    ///
    /// # Panics
    ///
    /// When something does not start in time.
    pub async fn start_in(directory: tempfile::TempDir, dispatcher_options: &[&str]) -> Self {
        let registry = Registry::start(&directory.path().join("registry")).await;
        let nats = Nats::start(NatsOptions::one(directory.path())).await;
        let listen = format!("127.0.0.1:{}", free_port());
        let dispatcher_options: Vec<String> =
            dispatcher_options.iter().map(|option| (*option).to_owned()).collect();
        let dispatcher = DispatcherOptions {
            directory: directory.path(),
            name: "dispatcher",
            nats_url: &nats.url(),
            listen: &listen,
            options: &dispatcher_options,
            environment: &[],
        };
        let dispatcher = dispatcher.spawn();
        let stack = Self {
            registry,
            dispatcher,
            workers: Vec::new(),
            nats,
            client: http::client(),
            directory,
            listen,
            dispatcher_options,
            dispatcher_environment: Vec::new(),
        };
        stack.dispatcher_ready().await;
        stack
    }

    /// Starts another dispatcher, with data of its own and the same artifact store, and returns its
    /// process and its URL.
    pub async fn another_dispatcher(&self, name: &str) -> (Process, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let process = self.spawn_dispatcher(name, &listen);
        let url = format!("http://{listen}");
        self.ready(&format!("{url}/readyz")).await;
        (process, url)
    }

    fn spawn_dispatcher(&self, name: &str, listen: &str) -> Process {
        let options = DispatcherOptions {
            directory: self.directory.path(),
            name,
            nats_url: &self.nats.url(),
            listen,
            options: &self.dispatcher_options,
            environment: &self.dispatcher_environment,
        };
        options.spawn()
    }

    /// Starts everything, with one worker.
    pub async fn with_worker() -> Self {
        let mut stack = Self::start().await;
        stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
        stack
    }

    /// Waits until the dispatcher says it is ready.
    pub async fn dispatcher_ready(&self) {
        self.ready(&self.url("/readyz")).await;
    }

    async fn ready(&self, url: &str) {
        wait::until("the dispatcher", wait::SOON, || async {
            let response = self.client.get(url).send().await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
    }

    /// Starts a worker. All public registries are mirrored by the test's own.
    pub fn add_worker(&mut self, options: WorkerOptions) -> usize {
        let directory = self.directory.path();
        let registry = &self.registry.address;
        let mut arguments = vec![
            format!("--nats-url={}", self.nats.url()),
            format!("--store={}", store_in(directory)),
            format!("--cache-dir={}", directory.join(format!("cache-{}", options.id)).display()),
            format!("--id={}", options.id),
            format!("--mirror=docker.io={registry}/docker.io,gcr.io={registry}/gcr.io"),
        ];
        arguments.extend(options.arguments);
        let binary = program("slipway-worker");
        let mut worker = match options.umask {
            None => command(&binary),
            Some(umask) => {
                let mut shell = command("sh");
                shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(&binary);
                shell
            }
        };
        worker.args(arguments).envs(options.environment);
        let log = directory.join(format!("{}.log", options.id));
        self.workers.push(Process::start(options.id, worker, &log));
        self.workers.len() - 1
    }

    /// Starts nats-server again after it was killed, with its data.
    pub async fn restart_nats(&mut self) {
        self.nats.restart(0).await;
    }

    /// Starts the dispatcher again after it was killed.
    pub async fn restart_dispatcher(&mut self) {
        self.start_dispatcher().await;
        self.dispatcher_ready().await;
    }

    /// Starts the dispatcher again after it was killed, and waits until it answers, ready or not.
    pub async fn start_dispatcher(&mut self) {
        self.dispatcher = self.spawn_dispatcher("dispatcher", &self.listen);
        self.ready(&self.url("/healthz")).await;
    }

    /// Returns the directory of the dispatcher's projection.
    #[must_use]
    pub fn dispatcher_data(&self) -> PathBuf {
        self.directory.path().join("dispatcher")
    }

    /// Returns where the artifacts are stored, if that is a directory.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Returns the URL of a path of the API.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Returns a reference in the test's registry.
    #[must_use]
    pub fn image(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.registry.address)
    }

    /// Sends a request and returns status and document.
    ///
    /// # Panics
    ///
    /// When there is no answer, or it is not JSON.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.expect("the dispatcher answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        let document = serde_json::from_str(&text);
        (status, document.unwrap_or_else(|error| panic!("{status} is not JSON ({error}): {text}")))
    }

    /// Reads a document of the API.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.client.get(self.url(path))).await
    }

    /// Tries to upload an artifact.
    pub async fn try_upload(&self, filename: &str, bytes: Vec<u8>) -> (u16, Value) {
        let url = self.url(&format!("/v1/projects/team/artifacts?filename={filename}"));
        self.send(self.client.put(url).body(bytes)).await
    }

    /// Uploads an artifact and returns its digest.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub async fn upload(&self, filename: &str, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        let (status, document) = self.try_upload(filename, bytes).await;
        assert!(matches!(status, 200 | 201), "{document}");
        assert_eq!(document["digest"], digest);
        digest
    }

    /// Uploads a new program and returns the request to build it as an image without a base.
    pub async fn tool(&self, marker: &str, image: &str) -> Value {
        let tool = self.upload("tool", artifacts::elf(62, marker)).await;
        json!({"artifact": tool, "image": image, "environment": "scratch"})
    }

    /// Sends a request without a body and returns status and document.
    pub async fn post(&self, path: &str) -> (u16, Value) {
        self.send(self.client.post(self.url(path))).await
    }

    /// Waits until the queue holds nothing.
    pub async fn queue_empty(&self) {
        wait::until("the queue to be empty", wait::LATER, || async {
            let (_, queue) = self.get("/v1/queue").await;
            (queue["queued"] == 0 && queue["running"] == 0).then_some(())
        })
        .await;
    }

    /// Tries to submit a build.
    pub async fn try_submit(&self, request: &Value) -> (u16, Value) {
        let url = self.url("/v1/projects/team/builds");
        self.send(self.client.post(url).json(request)).await
    }

    /// Submits a build and returns its id.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub async fn submit(&self, request: &Value) -> String {
        let (status, document) = self.try_submit(request).await;
        assert_eq!(status, 202, "{document}");
        document["id"].as_str().expect("an id").to_owned()
    }

    /// Reads a build.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn build(&self, id: &str) -> Value {
        let (status, document) = self.get(&format!("/v1/projects/team/builds/{id}")).await;
        assert_eq!(status, 200, "{document}");
        document
    }

    /// Waits until a build has its outcome.
    pub async fn finished(&self, id: &str) -> Value {
        wait::until(&format!("the end of build {id}"), wait::LATER, || async {
            let build = self.build(id).await;
            let state = build["state"].as_str().expect("a state").to_owned();
            matches!(state.as_str(), "succeeded" | "failed" | "cancelled").then_some(build)
        })
        .await
    }

    /// Builds an artifact with more fields of the request, and returns the finished build.
    ///
    /// # Panics
    ///
    /// When the upload or the request is refused.
    pub async fn run(&self, filename: &str, bytes: Vec<u8>, image: &str, more: Value) -> Value {
        let artifact = self.upload(filename, bytes).await;
        let mut request = json!({"artifact": artifact, "image": self.image(image)});
        for (field, value) in more.as_object().into_iter().flatten() {
            request[field] = value.clone();
        }
        let id = self.submit(&request).await;
        self.finished(&id).await
    }

    /// Returns the whole log of a build.
    ///
    /// # Panics
    ///
    /// When the dispatcher does not answer.
    pub async fn log(&self, id: &str) -> String {
        let url = self.url(&format!("/v1/projects/team/builds/{id}/logs"));
        let response = self.client.get(url).send().await.expect("the dispatcher answers");
        response.text().await.expect("a body")
    }

    /// Runs the command line client to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut cli = self.cli_command();
        cli.args(arguments);
        let output = tokio::task::spawn_blocking(move || cli.output());
        output.await.expect("it does not panic").expect("the client runs")
    }

    /// Returns the command line client, set up for this stack.
    #[must_use]
    pub fn cli_command(&self) -> Command {
        let mut cli = command(program("slipway"));
        cli.env("SLIPWAY_SERVER", self.url("")).env("SLIPWAY_PROJECT", "team");
        cli.env("HOME", self.directory.path());
        cli
    }
}

/// Where the artifacts of a stack are: in its directory, or in a place of its own below the URL that
/// `SLIPWAY_TEST_STORE` names, for tests of a cloud.
fn store_in(directory: &Path) -> String {
    match (std::env::var("SLIPWAY_TEST_STORE"), directory.file_name()) {
        (Ok(url), Some(name)) => format!("{url}/{}", name.to_string_lossy()),
        _ => directory.join("store").display().to_string(),
    }
}

/// How a dispatcher is started.
struct DispatcherOptions<'a> {
    directory: &'a Path,
    name: &'a str,
    nats_url: &'a str,
    listen: &'a str,
    options: &'a [String],
    environment: &'a [(&'static str, &'static str)],
}

impl DispatcherOptions<'_> {
    fn spawn(&self) -> Process {
        let Self { directory, name, nats_url, listen, options, environment } = self;
        let mut dispatcher = command(program("slipway-dispatcher"));
        dispatcher
            .arg(format!("--listen={listen}"))
            .arg(format!("--nats-url={nats_url}"))
            .arg(format!("--data-dir={}", directory.join(name).display()))
            .arg(format!("--store={}", store_in(directory)))
            .args(*options)
            .envs(environment.iter().copied());
        Process::start("slipway-dispatcher", dispatcher, &directory.join(format!("{name}.log")))
    }
}
