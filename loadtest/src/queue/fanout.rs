// SPDX-License-Identifier: Apache-2.0

//! How soon a thousand subscribers have an event: those of the dispatcher's event stream, and,
//! before them in the same run, as many of the nats-server alone.
//!
//! They are a thousand connections, each with a stream of its own, and a few threads that read
//! them: readers and servers share the processors, so the cost of a reader is part of the
//! measurement. An event counts as read when the last byte of its frame is read. Both kinds of
//! subscriber get the same frame and are read by the same code.

mod bare;
mod readers;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::SECTION;
use super::bed::{Bed, Cpu};
use super::times::Times;
use crate::goals;
use crate::row::{Row, number};
use readers::Readers;

/// How many events there are, and how many in a second.
const EVENTS: usize = 100;
const RATE: u32 = 20;
const EVENTS_OF: &str = "/v1/projects/bench/events";

/// Measures both.
pub(super) async fn measure(bed: &Bed, subscribers: usize) -> anyhow::Result<Vec<Row>> {
    let client = bed.nats_client().await?;
    let stage = stage_event(bed, &client).await?;
    let (bare, bare_row) = bare::measure(bed, &client, &stage.event, subscribers).await?;
    Ok(vec![bare_row, dispatched(bed, client, &stage, subscribers, &bare).await?])
}

/// Measures the time from publishing an event until each subscriber of the dispatcher has read it.
async fn dispatched(
    bed: &Bed,
    client: async_nats::Client,
    stage: &StageEvent,
    subscribers: usize,
    bare: &Times,
) -> anyhow::Result<Row> {
    let mut streams = Vec::with_capacity(subscribers);
    for _ in 0..subscribers {
        streams.push(subscribe(bed).await?.into_std()?);
    }
    let jetstream = jetstream::new(client);
    let before = jetstream.get_stream("EVENTS").await?.cached_info().state.last_sequence;
    let readers = Readers::start(streams, EVENTS, before)?;
    let cpu =
        Cpu::since_now(&[("dispatcher", bed.dispatcher.id()), ("readers", std::process::id())]);
    let published = paced(async |number| {
        let mut event = stage.event.clone();
        event["id"] = format!("{}:{number}", event["id"].as_str().context("an id")?).into();
        let (subject, headers) = (stage.subject.clone(), stage.headers.clone());
        let stored = jetstream.publish_with_headers(subject, headers, event.to_string().into());
        // The id of a frame is the event's sequence in the stream.
        Ok(stored.await?.await?.sequence)
    })
    .await?;
    let times = times(&published, readers, subscribers).await?;
    let mut cells = times.cells();
    cells.push(("p99 of bare", number(times.ratio(bare, 99))));
    cells.extend(cpu.each(EVENTS * subscribers));
    Ok(Row {
        section: SECTION,
        name: format!("event published to read by {subscribers} subscribers, {RATE} events/s"),
        cells,
        goals: vec![times.at_most(99, goals::FANOUT, (bare, "the server's own fan-out"))],
    })
}

/// Publishes events at a steady rate; returns when each was sent, by the id that `publish` returns.
async fn paced(
    mut publish: impl AsyncFnMut(usize) -> anyhow::Result<u64>,
) -> anyhow::Result<HashMap<u64, Instant>> {
    let begun = tokio::time::Instant::now();
    let mut published = HashMap::with_capacity(EVENTS);
    for number in 0..EVENTS {
        let due = u32::try_from(number).context("too many")?;
        tokio::time::sleep_until(begun + Duration::from_secs(1) * due / RATE).await;
        let at = Instant::now();
        published.insert(publish(number).await?, at);
    }
    Ok(published)
}

/// Waits until everything was read, and returns how long each event took to each subscriber.
async fn times(
    published: &HashMap<u64, Instant>,
    readers: Readers,
    subscribers: usize,
) -> anyhow::Result<Times> {
    let mut times = Vec::with_capacity(EVENTS * subscribers);
    for (id, at) in readers.finish().await? {
        let published = published.get(&id).context("an event that nobody published")?;
        times.push(at.saturating_duration_since(*published));
    }
    ensure!(times.len() == EVENTS * subscribers, "{} of the events were read", times.len());
    Times::of(times)
}

/// An event that could follow on a build.
struct StageEvent {
    subject: String,
    headers: HeaderMap,
    event: Value,
}

/// Submits a build and returns an event that could follow.
async fn stage_event(bed: &Bed, client: &async_nats::Client) -> anyhow::Result<StageEvent> {
    let mut events = client.subscribe("slipway.event.>").await?;
    client.flush().await?;
    bed.submit(&mut bed.connect().await?).await?;
    let queued = events.next().await.context("no event came")?;
    let mut event: Value = serde_json::from_slice(&queued.payload)?;
    let request = &event["data"]["request"];
    let data = json!({
        "project": request["project"], "image": request["references"][0], "epoch": 1,
        "attempt": 1, "worker": "nobody", "stage": "fetch",
    });
    event["data"] = data;
    event["type"] = "dev.slipway.build.stage.v1".into();
    let mut headers = HeaderMap::new();
    let build = event["subject"].as_str().context("an event has a subject")?;
    headers.insert("Slipway-Build-Id", build);
    let subject = queued.subject.replace("build.queued", "build.stage");
    Ok(StageEvent { subject, headers, event })
}

/// Opens a stream of events by hand: a thousand HTTP clients would cost as much as what is measured.
async fn subscribe(bed: &Bed) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(&bed.address).await?;
    let request = format!("GET {EVENTS_OF} HTTP/1.1\r\nhost: {}\r\n\r\n", bed.address);
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 15];
    stream.read_exact(&mut head).await?;
    let shown = String::from_utf8_lossy(&head);
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{EVENTS_OF} answered {shown}");
    Ok(stream)
}
