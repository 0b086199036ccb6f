// SPDX-License-Identifier: Apache-2.0

//! How long an event takes to reach every one of many subscribers: from its confirmation by the
//! server to the last byte that the last subscriber reads.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slipway_proto::subject::Subjects;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::http::Connection;
use crate::quantiles::Quantiles;
use crate::system::System;
use crate::{events, fill};

/// How long one event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two events, so that each is measured by itself.
const PAUSE: Duration = Duration::from_millis(30);

/// Sends events to subscribers, one at a time.
pub(crate) async fn measure(
    system: &System,
    subscribers: usize,
    told: u32,
) -> anyhow::Result<Value> {
    if subscribers == 0 {
        return Ok(Value::Null);
    }
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    for _ in 0..subscribers {
        let connection = Connection::open(system.address()).await?;
        let mut stream = connection.follow("/v1/projects/team-3/events").await?;
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            let mut end = [0; 2];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                // A chunk of the transfer encoding ends with a line break, and so does a frame.
                let tail = &buffer[..read];
                end.copy_from_slice(tail.last_chunk().unwrap_or(&[0; 2]));
                if &end == b"\r\n" && sender.send((Instant::now(), tail.len())).is_err() {
                    break;
                }
            }
        });
    }
    // Their openings.
    for _ in 0..subscribers {
        arrivals.recv().await;
    }
    let jetstream = system.jetstream().await?;
    let subjects = Subjects::default();
    let before = system.usage()?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for number in 0..u64::from(told) {
        // In project 3, and for builds that the history does not have.
        let number = 3 + (10_000_000 + number) * events::PROJECTS;
        let event = events::of(number, u64::MAX)?.swap_remove(0);
        tokio::time::sleep(PAUSE).await;
        fill::publish(&jetstream, &subjects, &event).await?.await?;
        let stored = Instant::now();
        let mut reached = stored;
        for arrived in 0..subscribers {
            let arrival = tokio::time::timeout(PATIENCE, arrivals.recv()).await?;
            let Some((at, _)) = arrival else { anyhow::bail!("the subscribers are gone") };
            if arrived == 0 {
                first.push(at.saturating_duration_since(stored));
            }
            reached = reached.max(at);
        }
        last.push(reached - stored);
    }
    Ok(json!({
        "subscribers": subscribers,
        "events": told,
        "first_ms": Quantiles::of(first),
        "last_ms": Quantiles::of(last),
        "dispatcher_before": before,
        "dispatcher": system.usage()?,
    }))
}
