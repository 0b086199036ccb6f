// SPDX-License-Identifier: Apache-2.0

//! How soon an idle fleet begins a build, and how soon bare JetStream delivers a message.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::Subscriber;
use async_nats::jetstream::{self, consumer::pull, stream};
use futures::StreamExt as _;
use serde_json::Value;
use slipway_proto::Timestamp;

use super::SECTION;
use super::bed::{Bed, WorkerKind};
use super::times::Times;
use crate::goals;
use crate::row::{Row, number};

/// How long the benchmark waits for an event.
const LIMIT: Duration = Duration::from_secs(20);

/// Measures both, one after the other.
pub(super) async fn measure(bed: &mut Bed, builds: usize) -> anyhow::Result<Vec<Row>> {
    let bare = bare(bed, builds).await?;
    bed.add_worker(WorkerKind { slots: 4, stages: 4, hold: false })?;
    bed.workers_ready(1).await?;
    let mut rows = vec![Row {
        section: SECTION,
        name: "bare JetStream: publish to delivery at a waiting consumer".to_owned(),
        cells: bare.cells(),
        goals: Vec::new(),
    }];
    rows.extend(fleet(bed, builds, &bare).await?);
    Ok(rows)
}

async fn bare(bed: &Bed, messages: usize) -> anyhow::Result<Times> {
    let jetstream = jetstream::new(bed.nats_client().await?);
    let config = stream::Config {
        name: "BARE".to_owned(),
        subjects: vec!["bare.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    let stream = jetstream.create_stream(config).await?;
    let durable = pull::Config { durable_name: Some("bare".to_owned()), ..pull::Config::default() };
    let consumer = stream.create_consumer(durable).await?;
    let publisher = jetstream::new(bed.nats_client().await?);
    let mut times = Vec::new();
    for number in 0..messages {
        let mut waiting = consumer.batch().max_messages(1).expires(LIMIT).messages().await?;
        // As between two builds, the pull request is at the server before the message.
        jetstream.client().flush().await?;
        let sent = Instant::now();
        let publishing = publisher.publish(format!("bare.{number}"), "x".into()).await?;
        let message = waiting.next().await.context("no message came")?;
        times.push(sent.elapsed());
        publishing.await?;
        let message = message.map_err(anyhow::Error::from_boxed)?;
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    Times::of(times)
}

/// Submits builds one after the other, each to an idle fleet.
async fn fleet(bed: &Bed, builds: usize, bare: &Times) -> anyhow::Result<Vec<Row>> {
    let client = bed.nats_client().await?;
    let mut events = client.subscribe("slipway.event.>").await?;
    client.flush().await?;
    let mut connection = bed.connect().await?;
    let (mut accepted, mut answered) = (Vec::new(), Vec::new());
    for number in 0..=builds {
        let submitted = bed.submit(&mut connection).await.map(|id| (id, Instant::now()));
        let (id, answer) = submitted?;
        let queued = next(&mut events, &id, "build.queued").await?;
        let stage = next(&mut events, &id, "build.stage").await?;
        let seen = Instant::now();
        // The first one warms connections and caches up.
        if number > 0 {
            accepted.push(between(&queued, &stage)?);
            answered.push(seen.saturating_duration_since(answer));
        }
        next(&mut events, &id, "build.finished").await?;
    }
    let (accepted, answered) = (Times::of(accepted)?, Times::of(answered)?);
    let mut cells = accepted.cells();
    for (percent, column) in [(50, "p50 of bare"), (99, "p99 of bare")] {
        cells.push((column, number(accepted.ratio(bare, percent))));
    }
    let others = (bare, "bare JetStream");
    Ok(vec![
        Row {
            section: SECTION,
            name: "accepted to first stage, idle fleet, by the times in the events".to_owned(),
            cells,
            goals: vec![
                accepted.at_most(50, goals::WAKE, others),
                accepted.at_most(99, goals::WAKE, others),
            ],
        },
        Row {
            section: SECTION,
            name: "arrival of the 202 to arrival of the stage event at a subscriber".to_owned(),
            cells: answered.cells(),
            goals: Vec::new(),
        },
    ])
}

/// Returns the next event of a build and a kind, passing over others.
pub(super) async fn next(
    events: &mut Subscriber,
    build: &str,
    kind: &str,
) -> anyhow::Result<Value> {
    loop {
        let message = tokio::time::timeout(LIMIT, events.next()).await;
        let message = message.with_context(|| format!("no {kind} of build {build} came"))?;
        let message = message.context("the connection is lost")?;
        if !message.subject.ends_with(kind) {
            continue;
        }
        let event: Value = serde_json::from_slice(&message.payload)?;
        if event["subject"] == build {
            return Ok(event);
        }
    }
}

fn between(earlier: &Value, later: &Value) -> anyhow::Result<Duration> {
    let time = |event: &Value| -> anyhow::Result<Timestamp> {
        Ok(event["time"].as_str().context("an event has a time")?.parse()?)
    };
    // Both times are from one clock, and in the order of cause and effect.
    Ok(Duration::try_from(time(later)?.duration_since(time(earlier)?)).unwrap_or_default())
}
