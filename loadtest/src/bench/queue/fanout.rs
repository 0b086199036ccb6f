// SPDX-License-Identifier: Apache-2.0

//! How soon a thousand subscribers of the dispatcher's event stream have an event.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::SECTION;
use super::bed::{Bed, Cpu};
use super::times::Times;
use crate::bench::row::Row;

/// How many events there are, and how many in a second.
const EVENTS: usize = 100;
const RATE: u32 = 20;
/// Stands in front of the number of an event, in its id.
const MARK: &str = ":mark-";
/// How many digits that number has.
const DIGITS: usize = 6;
const EVENTS_OF: &str = "/v1/projects/bench/events";
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
        let stream = subscribe(bed).await?;
        let (published, seen) = (Arc::clone(&published), seen.clone());
        tokio::spawn(async move {
            let read = read(stream, &published).await;
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

/// Reads the stream until the last event and returns how long each took.
async fn read(mut stream: TcpStream, published: &Published) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(EVENTS);
    let mut text = Vec::with_capacity(8 * 1024);
    while times.len() < EVENTS {
        let read = stream.read_buf(&mut text).await?;
        ensure!(read > 0, "the stream ended");
        let now = Instant::now();
        while let Some((number, end)) = marked(&text) {
            let published = published.get(number).and_then(OnceLock::get);
            times.push(now.duration_since(*published.context("an event of the future")?));
            text.drain(..end);
        }
    }
    Ok(times)
}

/// Returns the number of the first event of ours, and where it ends.
fn marked(text: &[u8]) -> Option<(usize, usize)> {
    let begin = text.windows(MARK.len()).position(|window| window == MARK.as_bytes())?;
    let begin = begin + MARK.len();
    let end = begin + DIGITS;
    let number = std::str::from_utf8(text.get(begin..end)?).ok()?;
    Some((number.parse().ok()?, end))
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn the_numbers_of_events_are_found_in_their_order() {
        let text = b"data: {\"id\":\"b:mark-000042\"}\n\n4f\r\ndata: {\"id\":\"b:mark-000043";
        let (number, end) = marked(text).expect("the first one");
        assert_eq!(number, 42);
        assert_eq!(marked(&text[end..]), Some((43, text.len() - end)));
        assert_eq!(marked(b"data: {\"id\":\"b:mark-0000"), None, "the rest is on its way");
    }
}
