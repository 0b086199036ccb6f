// SPDX-License-Identifier: Apache-2.0

//! Processes that start before others are there.

use slipway_tests::nats::{Nats, NatsOptions, nats_program};
use slipway_tests::process::{Process, command, free_port, program};
use slipway_tests::wait;

/// Waits until a process that runs has written something.
async fn wrote(process: &mut Process, what: &str) {
    wait::until(what, wait::LATER, || {
        let output = process.output();
        assert!(process.is_running(), "it ended: {output}");
        async move { output.contains(what).then_some(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatcher_and_worker_wait_for_the_leaders_of_a_cluster() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let version = std::env::var("SLIPWAY_TEST_NATS_VERSION").ok();
    let mut nats = Nats::start(NatsOptions {
        program: nats_program(version.as_deref()),
        replicas: 3,
        sync_always: false,
        stores: (0..3).map(|node| path(&format!("store-{node}"))).collect(),
        logs: directory.path().to_owned(),
    })
    .await;
    // One is no majority.
    nats.kill(1);
    nats.kill(2);
    let url = format!("--nats-url=nats://{}", nats.addresses()[0]);
    let store = format!("--store={}", path("store").display());

    let mut worker = command(program("slipway-worker"));
    worker.args([&url, &store, "--id=early"]);
    worker.arg(format!("--cache-dir={}", path("cache").display()));
    let mut worker = Process::start("slipway-worker", worker, &path("worker.log"));
    let mut dispatcher = command(program("slipway-dispatcher"));
    dispatcher.args([&url, &store, &format!("--listen=127.0.0.1:{}", free_port())]);
    dispatcher.arg(format!("--data-dir={}", path("dispatcher").display()));
    let mut dispatcher = Process::start("slipway-dispatcher", dispatcher, &path("dispatcher.log"));
    wrote(&mut worker, "JetStream is not ready").await;
    wrote(&mut dispatcher, "JetStream is not ready").await;

    nats.restart(1).await;
    nats.restart(2).await;
    wrote(&mut worker, "taking builds").await;
    wrote(&mut dispatcher, "listening").await;
}
