// SPDX-License-Identifier: Apache-2.0

//! How soon a worker stops a cancelled build, and how soon a killed worker's build runs again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;

use super::SECTION;
use super::bed::{Bed, WorkerKind, until};
use super::client::BUILDS;
use super::times::{self, Times};
use super::wake::next;
use crate::goals;
use crate::row::{Goal, Row};

/// How many builds a worker holds while they are cancelled.
const HELD: usize = 8;
/// How many builds the killed worker holds.
const ORPHANS: usize = 4;
const LIMIT: Duration = Duration::from_secs(30);
const HOLDING: WorkerKind = WorkerKind { slots: HELD, stages: 4, hold: true };

/// Measures from sending the cancellation to the moment at which the stage was stopped.
pub(super) async fn cancelled(bed: &mut Bed, builds: usize) -> anyhow::Result<Row> {
    bed.add_worker(HOLDING)?;
    bed.workers_ready(1).await?;
    let mut connection = bed.connect().await?;
    let mut sent = BTreeMap::new();
    let mut left = builds;
    while left > 0 {
        let held = run(bed, left.min(HELD)).await?;
        left -= held.len();
        for build in held {
            sent.insert(build.clone(), times::now());
            connection.post(&format!("{BUILDS}/{build}/cancel"), Bytes::new()).await?;
        }
    }
    let worker = bed.workers.first().context("there is a worker")?;
    let stopped = until("the builds to stop", LIMIT, async || {
        let stopped = stopped(&worker.output());
        sent.keys().all(|build| stopped.contains_key(build)).then_some(stopped)
    })
    .await?;
    let times = sent.iter().map(|(build, sent)| stopped[build].saturating_sub(*sent)).collect();
    let times = Times::of(times)?;
    Ok(Row {
        section: SECTION,
        name: format!("cancelled to stopped, a worker that runs {HELD} builds"),
        cells: times.cells(),
        goals: vec![times.below(99, goals::CANCEL)],
    })
}

/// Measures from killing a worker to the event that another has started its build.
pub(super) async fn killed(bed: &mut Bed) -> anyhow::Result<Row> {
    let held = run(bed, ORPHANS).await?;
    let client = bed.nats_client().await?;
    let mut started = client.subscribe("slipway.event.*.*.build.started").await?;
    client.flush().await?;
    bed.add_worker(HOLDING)?;
    bed.workers_ready(2).await?;
    bed.workers[0].kill();
    let killed = Instant::now();
    let mut seen = Vec::new();
    let mut waiting: Vec<&String> = held.iter().collect();
    while !waiting.is_empty() {
        let message = tokio::time::timeout(LIMIT, futures::StreamExt::next(&mut started)).await?;
        let message = message.context("the connection is lost")?;
        let event: serde_json::Value = serde_json::from_slice(&message.payload)?;
        let before = waiting.len();
        waiting.retain(|build| event["subject"] != **build);
        if waiting.len() < before {
            seen.push(killed.elapsed());
        }
    }
    let times = Times::of(seen)?;
    let longest = times.percentile(100);
    Ok(Row {
        section: SECTION,
        name: "worker killed to its build running again".to_owned(),
        cells: times.cells(),
        goals: vec![Goal {
            what: "max".to_owned(),
            wanted: format!("<= {} s", goals::TAKEN_OVER.as_secs()),
            seen: times::shown(longest),
            met: longest <= goals::TAKEN_OVER,
        }],
    })
}

/// Submits builds and returns their ids once the worker holds them in their last stage.
async fn run(bed: &Bed, count: usize) -> anyhow::Result<Vec<String>> {
    let client = bed.nats_client().await?;
    let mut connection = bed.connect().await?;
    let mut builds = Vec::new();
    for _ in 0..count {
        let mut events = client.subscribe("slipway.event.>").await?;
        client.flush().await?;
        let build = bed.submit(&mut connection).await?;
        loop {
            let event = next(&mut events, &build, "build.stage").await?;
            if event["data"]["stage"] == "push" {
                break;
            }
        }
        builds.push(build);
    }
    Ok(builds)
}

/// Reads from a holding worker's output when its builds were stopped.
fn stopped(output: &str) -> BTreeMap<String, Duration> {
    let lines = output.lines().filter_map(|line| {
        let (build, nanoseconds) = line.strip_prefix("stopped ")?.split_once(' ')?;
        let nanoseconds: u64 = nanoseconds.parse().ok()?;
        Some((build.to_owned(), Duration::from_nanos(nanoseconds)))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_says_when_builds_were_stopped() {
        let stopped = stopped("stopped a 1000000\nwarning: x\nstopped b 2\n");
        assert_eq!(stopped.len(), 2);
        assert_eq!(stopped["a"], Duration::from_millis(1));
    }
}
