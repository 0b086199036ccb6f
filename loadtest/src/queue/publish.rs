// SPDX-License-Identifier: Apache-2.0

//! The ceiling of durable submission: a publisher without a dispatcher that stores the same bytes.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::Config;
use futures::StreamExt as _;

use super::SECTION;
use super::bed::{Bed, Cpu};
use super::times::rate;
use crate::row::Row;

/// How many messages may wait for their acknowledgement.
const IN_FLIGHT: usize = 2048;

/// Measures how many builds a second a bare publisher stores, each as the three messages that the
/// dispatcher stores for it: record, request and event.
pub(super) async fn measure(bed: &Bed, builds: usize) -> anyhow::Result<(f64, Row)> {
    let client = bed.nats_client().await?;
    let messages = messages_of_a_build(bed, &client).await?;
    let bytes: usize = messages.iter().map(|message| message.length).sum();
    let jetstream = jetstream::new(client);
    let stream = Config {
        name: "BARE".to_owned(),
        subjects: vec!["bare.>".to_owned()],
        ..Config::default()
    };
    jetstream.create_stream(stream).await?;

    let cpu = Cpu::since_now(&[
        ("nats-server", bed.nats.process(0).id()),
        ("publisher", std::process::id()),
    ]);
    let begun = Instant::now();
    let mut pending: VecDeque<PublishAckFuture> = VecDeque::with_capacity(IN_FLIGHT);
    for build in 0..builds {
        for (number, message) in messages.iter().enumerate() {
            if pending.len() == IN_FLIGHT
                && let Some(oldest) = pending.pop_front()
            {
                oldest.await?;
            }
            let mut headers = message.headers.clone().unwrap_or_default();
            if headers.get(async_nats::header::NATS_MESSAGE_ID).is_some() {
                let id = format!("{build:032}-{number}-");
                headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
            }
            // One subject for each message, as in the real streams, and each of them new.
            let subject = format!("bare.{number}.{build:032}");
            let sent =
                jetstream.publish_with_headers(subject, headers, message.payload.clone()).await;
            pending.push_back(sent?);
        }
    }
    for acknowledgement in pending {
        acknowledgement.await?;
    }
    let took = begun.elapsed();
    let per_second = rate(builds, took);
    let mut cells = vec![
        ("builds", builds.to_string()),
        ("builds/s", format!("{per_second:.0}")),
        ("bytes each", bytes.to_string()),
    ];
    cells.extend(cpu.each(builds));
    let name = "ceiling: the same three messages from a bare publisher".to_owned();
    Ok((per_second, Row { section: SECTION, name, cells, goals: Vec::new() }))
}

/// Submits a build and returns what the dispatcher stored for it.
async fn messages_of_a_build(
    bed: &Bed,
    client: &async_nats::Client,
) -> anyhow::Result<Vec<async_nats::Message>> {
    let mut subscriptions = Vec::new();
    for subject in ["$KV.slipway-state.>", "slipway.build.>", "slipway.event.>"] {
        subscriptions.push(client.subscribe(subject).await?);
    }
    client.flush().await?;
    bed.submit(&mut bed.connect().await?).await?;
    let mut messages = Vec::new();
    for subscription in &mut subscriptions {
        messages.push(subscription.next().await.context("the connection is lost")?);
    }
    Ok(messages)
}
