// SPDX-License-Identifier: Apache-2.0

//! NATS servers, alone and as a cluster.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use slipway_tests::nats::{Nats, NatsOptions, nats_program};
use slipway_tests::wait;

/// `SLIPWAY_TEST_NATS_VERSION` selects another server than Debian's, which then syncs every write.
async fn nats(directory: &Path, replicas: usize) -> Nats {
    let version = std::env::var("SLIPWAY_TEST_NATS_VERSION").ok();
    let stores = (0..replicas).map(|node| directory.join(format!("store-{node}"))).collect();
    let program = nats_program(version.as_deref());
    let (sync_always, logs) = (version.is_some(), directory.to_owned());
    Nats::start(NatsOptions { program, replicas, sync_always, stores, logs }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_the_leader_of_a_stream_and_takes_it_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut nats = nats(directory.path(), 3).await;
    // The client soon notices that its server is stopped.
    let options = async_nats::ConnectOptions::new().ping_interval(Duration::from_secs(1));
    let client = options.connect(nats.addresses()).await.expect("NATS is there");
    let jetstream = jetstream::new(client.clone());
    let config = jetstream::stream::Config {
        name: "kept".to_owned(),
        num_replicas: 3,
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(config).await.expect("all three servers are there");
    let publish = async |text: &'static str| {
        wait::until("an acknowledgement", wait::LATER, || async {
            jetstream.publish("kept", text.into()).await.ok()?.await.ok()
        })
        .await
    };
    publish("before").await;
    assert!(client.server_info().connect_urls.is_empty(), "clients are told other addresses");

    let leads = async |nats: &Nats| {
        wait::until("a leader", wait::LATER, || async { nats.leader("kept").await }).await
    };
    let first = leads(&nats).await;
    nats.kill(first);
    assert!(!nats.is_running(first));
    nats.kill(first);
    let second = leads(&nats).await;
    assert_ne!(second, first);
    publish("between").await;

    let addresses = nats.addresses();
    nats.restart(first).await;
    assert!(nats.is_running(first));
    assert_eq!(nats.addresses(), addresses);
    let other = 3 - first - second;
    // Without the third there is a majority only if the first has everything.
    nats.signal(other, "STOP");
    publish("after").await;
    nats.signal(other, "CONT");
    nats.ready().await;
    let mut stream = jetstream.get_stream("kept").await.expect("the stream is there");
    assert!(stream.info().await.expect("it answers").state.messages >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_keeps_its_streams_when_it_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut nats = nats(directory.path(), 1).await;
    assert_eq!(nats.url(), format!("nats://{}", nats.addresses()[0]));
    let client = async_nats::connect(nats.url()).await.expect("NATS is there");
    let jetstream = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "kept".to_owned(),
        ..jetstream::stream::Config::default()
    };
    jetstream.create_stream(config).await.expect("JetStream is there");
    nats.kill(0);
    nats.restart(0).await;
    nats.ready().await;
    assert_eq!(nats.leader("kept").await, Some(0));
    assert_eq!(nats.leader("other").await, None);
}
