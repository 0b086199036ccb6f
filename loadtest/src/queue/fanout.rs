// SPDX-License-Identifier: Apache-2.0

//! How soon a thousand subscribers of the dispatcher's event stream have an event.
//!
//! They are a thousand connections, each with a stream of its own, and a few threads that read them:
//! on a machine where readers and dispatcher share the processors, what a reader costs is part of what
//! is measured. An event counts as read when the last byte of its frame is.

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
use crate::row::Row;
use readers::Readers;

/// How many events there are, and how many in a second.
const EVENTS: usize = 100;
const RATE: u32 = 20;
const EVENTS_OF: &str = "/v1/projects/bench/events";

/// Measures from publishing an event to each subscriber's having read it.
pub(super) async fn measure(bed: &Bed, subscribers: usize) -> anyhow::Result<Row> {
    let client = bed.nats_client().await?;
    let (subject, headers, event) = stage_event(bed, &client).await?;
    let mut streams = Vec::with_capacity(subscribers);
    for _ in 0..subscribers {
        streams.push(subscribe(bed).await?.into_std()?);
    }
    let jetstream = jetstream::new(client);
    let before = jetstream.get_stream("EVENTS").await?.cached_info().state.last_sequence;
    let readers = Readers::start(streams, EVENTS, before)?;

    let cpu =
        Cpu::since_now(&[("dispatcher", bed.dispatcher.id()), ("readers", std::process::id())]);
    let begun = tokio::time::Instant::now();
    let mut published = HashMap::with_capacity(EVENTS);
    for number in 0..EVENTS {
        let due = u32::try_from(number).context("too many")?;
        tokio::time::sleep_until(begun + Duration::from_secs(1) * due / RATE).await;
        let mut event = event.clone();
        event["id"] = format!("{}:{number}", event["id"].as_str().context("an id")?).into();
        let payload = event.to_string().into();
        let at = Instant::now();
        let stored = jetstream.publish_with_headers(subject.clone(), headers.clone(), payload);
        // What a subscriber is told an event's id is, is its sequence in the stream.
        published.insert(stored.await?.await?.sequence, at);
    }
    let read = readers.finish().await?;
    let mut times = Vec::with_capacity(EVENTS * subscribers);
    for (sequence, at) in read {
        let published = published.get(&sequence).context("an event that nobody published")?;
        times.push(at.duration_since(*published));
    }
    ensure!(times.len() == EVENTS * subscribers, "{} of the events were read", times.len());
    let times = Times::of(times)?;
    let mut cells = times.cells();
    cells.extend(cpu.each(EVENTS * subscribers));
    Ok(Row {
        section: SECTION,
        name: format!("event published to read by {subscribers} subscribers, {RATE} events/s"),
        cells,
        goals: vec![times.below(99, Duration::from_millis(10))],
    })
}

/// Submits a build and returns subject, headers and document of an event that could follow.
async fn stage_event(
    bed: &Bed,
    client: &async_nats::Client,
) -> anyhow::Result<(String, HeaderMap, Value)> {
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
    Ok((queued.subject.replace("build.queued", "build.stage"), headers, event))
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
