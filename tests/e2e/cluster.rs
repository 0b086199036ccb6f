// SPDX-License-Identifier: Apache-2.0

//! Dispatcher and worker on a cluster whose NATS servers come and go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream;
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::nats::{Nats, NatsOptions, nats_program};
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command, program};
use slipway_tests::{artifacts, http, wait};

/// Three servers, of which the programs know only the first.
struct Cluster {
    directory: tempfile::TempDir,
    nats: Nats,
    listen: String,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let version = std::env::var("SLIPWAY_TEST_NATS_VERSION").ok();
        let nats = Nats::start(NatsOptions {
            program: nats_program(version.as_deref()),
            replicas: 3,
            sync_always: false,
            stores: (0..3).map(|node| directory.path().join(format!("store-{node}"))).collect(),
            logs: directory.path().to_owned(),
        });
        let nats = nats.await;
        Self { directory, nats, listen: format!("127.0.0.1:{}", free_port()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&self, name: &'static str, options: &[String]) -> Process {
        let mut process = command(program(name));
        process.arg(format!("--nats-url=nats://{}", self.nats.addresses()[0]));
        process.arg(format!("--store={}", self.path("store").display())).args(options);
        Process::start(name, process, &self.path(&format!("{name}.log")))
    }

    fn dispatcher(&self) -> Process {
        let data = format!("--data-dir={}", self.path("dispatcher").display());
        let options = [format!("--listen={}", self.listen), data, "--replicas=3".to_owned()];
        self.spawn("slipway-dispatcher", &options)
    }

    fn worker(&self) -> Process {
        let cache = format!("--cache-dir={}", self.path("cache").display());
        self.spawn("slipway-worker", &["--id=early".to_owned(), cache])
    }

    /// Returns the readers of events, and the server that has each.
    async fn readers(&self) -> BTreeSet<(String, usize)> {
        let client = async_nats::connect(&self.nats.addresses()[0]).await.expect("NATS is there");
        let events = jetstream::new(client).get_stream("EVENTS").await.expect("a stream");
        let consumers: Vec<_> = events.consumers().try_collect().await.expect("its consumers");
        let readers = consumers.into_iter().filter(|info| info.config.durable_name.is_none());
        readers
            .filter_map(|info| {
                let leader = info.cluster?.leader?;
                Some((info.name, leader.strip_prefix("nats-")?.parse().expect("a number")))
            })
            .collect()
    }
}

/// Waits until a running process has logged a text.
async fn wrote(process: &mut Process, what: &str) {
    wait::until(what, wait::LATER, || {
        let output = process.output();
        assert!(process.is_running(), "it ended: {output}");
        async move { output.contains(what).then_some(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatcher_and_worker_wait_for_the_leaders() {
    let mut cluster = Cluster::start().await;
    // One server is not a majority.
    cluster.nats.kill(1);
    cluster.nats.kill(2);
    let (mut worker, mut dispatcher) = (cluster.worker(), cluster.dispatcher());
    wrote(&mut worker, "JetStream is not ready").await;
    wrote(&mut dispatcher, "JetStream is not ready").await;
    cluster.nats.restart(1).await;
    cluster.nats.restart(2).await;
    wrote(&mut worker, "taking builds").await;
    wrote(&mut dispatcher, "listening").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_when_a_server_dies_that_the_dispatcher_is_not_connected_to() {
    let mut cluster = Cluster::start().await;
    let mut dispatcher = cluster.dispatcher();
    wrote(&mut dispatcher, "caught up").await;
    let mut before = BTreeSet::new();
    let server = loop {
        let readers = cluster.readers().await;
        let (_, server) = readers.difference(&before).next().expect("the dispatcher reads events");
        if *server != 0 {
            break *server;
        }
        before = readers;
        dispatcher.kill();
        std::fs::remove_file(cluster.path("slipway-dispatcher.log")).expect("its log");
        dispatcher = cluster.dispatcher();
        wrote(&mut dispatcher, "caught up").await;
    };
    let client = http::client();
    let url = format!("http://{}/v1/projects/team", cluster.listen);
    let tool = artifacts::elf(62, "a");
    let digest = Digest::of(&tool).to_string();
    let put = client.put(format!("{url}/artifacts?filename=tool")).body(tool);
    assert!(put.send().await.expect("an answer").status().is_success());

    cluster.nats.kill(server);
    let request = json!({
        "artifact": digest, "image": "127.0.0.1:1/a/b:1", "environment": "scratch",
    });
    wait::until("the build to be accepted", wait::LATER, || async {
        let post = client.post(format!("{url}/builds")).header("idempotency-key", "k");
        post.json(&request).send().await.ok()?.status().is_success().then_some(())
    })
    .await;
    // It is listed once its event was read.
    wait::until("the build to be listed", Duration::from_secs(15), || async {
        let answer = client.get(format!("{url}/builds")).send().await.ok()?;
        let list: Value = answer.json().await.ok()?;
        (list["builds"].as_array()?.len() == 1).then_some(())
    })
    .await;
}
