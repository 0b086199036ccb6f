// SPDX-License-Identifier: Apache-2.0

//! How soon a thousand subscribers of the dispatcher's event stream have an event.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::SECTION;
use super::bed::{Bed, Cpu};
use super::client::Connection;
use super::times::Times;
use crate::bench::row::Row;

/// How many events there are, and how many in a second.
const EVENTS: usize = 100;
const RATE: u32 = 20;
/// Stands in front of the number of an event, in its id.
const MARK: &str = ":mark-";
/// How long the last event may take.
const LIMIT: Duration = Duration::from_secs(20);

/// When each event was published.
type Published = Arc<Vec<OnceLock<Instant>>>;

/// Measures from publishing an event to each subscriber's having read it.
pub(super) async fn measure(bed: &Bed, subscribers: usize) -> anyhow::Result<Row> {
    let client = bed.nats().await?;
    let (subject, headers, event) = stage_event(bed, &client).await?;
    let published: Published = Arc::new((0..EVENTS).map(|_| OnceLock::new()).collect());
    let (seen, mut latencies) = mpsc::unbounded_channel();
    for _ in 0..subscribers {
        let body = subscribe(bed).await?;
        let (published, seen) = (Arc::clone(&published), seen.clone());
        tokio::spawn(async move {
            let read = read(body, &published).await;
            let _nobody_waits = seen.send(read);
        });
    }
    drop(seen);

    let cpu =
        Cpu::since_now(&[("dispatcher", bed.dispatcher.id()), ("readers", std::process::id())]);
    let jetstream = jetstream::new(client);
    let begun = tokio::time::Instant::now();
    for (number, published) in published.iter().enumerate() {
        let due = u32::try_from(number).context("too many")?;
        tokio::time::sleep_until(begun + Duration::from_secs(1) * due / RATE).await;
        let mut event = event.clone();
        let id = format!("{}{MARK}{number:06}", event["id"].as_str().context("an id")?);
        event["id"] = id.into();
        published.set(Instant::now()).map_err(|_| anyhow::anyhow!("published twice"))?;
        let payload = event.to_string().into();
        jetstream.publish_with_headers(subject.clone(), headers.clone(), payload).await?.await?;
    }
    let mut times = Vec::with_capacity(EVENTS * subscribers);
    while let Some(read) = tokio::time::timeout(LIMIT, latencies.recv()).await? {
        times.extend(read?);
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

async fn subscribe(bed: &Bed) -> anyhow::Result<(Connection, Incoming)> {
    let mut connection = bed.connect().await?;
    let path = "/v1/projects/bench/events";
    let response = connection.send(Method::GET, path, Bytes::new()).await?;
    ensure!(response.status().is_success(), "{path} answered {}", response.status());
    Ok((connection, response.into_body()))
}

/// Reads the stream until the last event and returns how long each took.
async fn read(
    (_open, mut body): (Connection, Incoming),
    published: &Published,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(EVENTS);
    let mut text = Vec::new();
    while times.len() < EVENTS {
        let frame = body.frame().await.context("the stream ended")??;
        let now = Instant::now();
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            if let Some(number) = marked(&text[..end]) {
                let published = published.get(number).and_then(OnceLock::get);
                times.push(now.duration_since(*published.context("an event of the future")?));
            }
            text.drain(..end + 2);
        }
    }
    Ok(times)
}

/// Returns the number of an event of ours.
fn marked(frame: &[u8]) -> Option<usize> {
    let frame = std::str::from_utf8(frame).ok()?;
    let (_, number) = frame.split_once(MARK)?;
    number.get(..6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn the_number_of_an_event_is_found_in_its_frame() {
        let frame = b"id: 7\nevent: build.stage\ndata: {\"id\":\"b:0:build.queued:mark-000042\"}";
        assert_eq!(marked(frame), Some(42));
        assert_eq!(marked(b": alive"), None);
    }
}
