// SPDX-License-Identifier: Apache-2.0

//! nats-server's own fan-out: a message of core NATS to as many connections as the dispatcher has
//! subscribers.
//!
//! The message is the frame that a subscriber of the dispatcher gets, so [`Readers`] finds it among
//! the lines of NATS's protocol as it finds it among those of a chunked response. The connections
//! speak just enough of that protocol, because a client library for each would cost more than what
//! is measured.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::readers::Readers;
use super::{EVENTS, RATE, paced, times};
use crate::queue::SECTION;
use crate::queue::bed::{Bed, Cpu};
use crate::queue::times::Times;
use crate::row::Row;

const SUBJECT: &str = "bare.fanout";
/// The longest greeting of a nats-server: its `INFO` line and the answer to a `PING`.
const GREETING: usize = 8 * 1024;

/// Measures from publishing a message to its being read by each subscriber of the server.
pub(super) async fn measure(
    bed: &Bed,
    client: &async_nats::Client,
    event: &Value,
    subscribers: usize,
) -> anyhow::Result<(Times, Row)> {
    let addresses = bed.nats.addresses();
    let address = addresses.first().context("there is a server")?;
    let mut streams = Vec::with_capacity(subscribers);
    for _ in 0..subscribers {
        streams.push(subscribe(address).await?.into_std()?);
    }
    let readers = Readers::start(streams, EVENTS, 0)?;
    let cpu = Cpu::since_now(&[
        ("nats-server", bed.nats.process(0).id()),
        ("readers", std::process::id()),
    ]);
    let published = paced(async |number| {
        // Behind 0, where the readers begin.
        let id = number as u64 + 1;
        let frame = format!("id: {id}\nevent: build.stage\ndata: {event}\n\n");
        client.publish(SUBJECT, frame.into()).await?;
        client.flush().await?;
        Ok(id)
    })
    .await?;
    let times = times(&published, readers, subscribers).await?;
    let mut cells = times.cells();
    cells.extend(cpu.each(EVENTS * subscribers));
    let name = format!("nats-server's own fan-out to {subscribers} subscribers, {RATE} messages/s");
    Ok((times, Row { section: SECTION, name, cells, goals: Vec::new() }))
}

/// Opens a connection that is subscribed when this returns.
async fn subscribe(address: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let hello = format!("CONNECT {{\"verbose\":false}}\r\nSUB {SUBJECT} 1\r\nPING\r\n");
    stream.write_all(hello.as_bytes()).await?;
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"PONG\r\n") {
        ensure!(greeting.len() < GREETING, "nats-server answers with no PONG");
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await?;
        ensure!(read > 0, "nats-server hung up: {}", String::from_utf8_lossy(&greeting));
        greeting.extend_from_slice(&piece[..read]);
    }
    Ok(stream)
}
