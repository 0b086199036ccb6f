// SPDX-License-Identifier: Apache-2.0

//! A full queue, drained by workers with empty image stages: claim, events, log, commit and
//! confirmed acknowledgement for each build.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::SECTION;
use super::bed::{Bed, Cpu, WorkerKind, until};
use super::times::rate;
use crate::goals;
use crate::row::{Goal, Row};

/// How many connections submit the builds beforehand.
const CONCURRENCY: usize = 64;
const WORKERS: usize = 2;
const SLOTS: usize = 64;
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How often to check that the queue is empty. Counting is work for the server: every 5 ms took 3 %
/// of its time.
const LOOK: Duration = Duration::from_millis(25);

/// How many of its stages a build announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// All four, as every real build does.
    All,
    /// Only the first. The difference is the cost of the other three events.
    First,
}

/// Measures how many builds a second go from the first claim to the last confirmed acknowledgement.
pub(super) async fn measure(
    mut bed: Bed,
    builds: usize,
    shown: Shown,
    ceiling: f64,
) -> anyhow::Result<Row> {
    fill(&bed, builds).await?;
    let client = bed.nats_client().await?;
    let mut claimed = client.subscribe("slipway.event.*.*.build.started").await?;
    claimed.unsubscribe_after(1).await?;
    client.flush().await?;
    let received = bed.messages_received().await?;
    let stages = if shown == Shown::All { 4 } else { 1 };
    for _ in 0..WORKERS {
        bed.add_worker(WorkerKind { slots: SLOTS, stages, hold: false })?;
    }
    let mut processes =
        vec![("nats-server", bed.nats.process(0).id()), ("dispatcher", bed.dispatcher.id())];
    processes.extend(["worker 1", "worker 2"].into_iter().zip(bed.workers.iter().map(|w| w.id())));
    let cpu = Cpu::since_now(&processes);
    tokio::time::timeout(LIMIT, claimed.next()).await?.context("no build was claimed")?;
    let begun = Instant::now();
    let jetstream = jetstream::new(client);
    until("the queue to be empty", LIMIT, async || {
        let stream = jetstream.get_stream("BUILDS").await.ok()?;
        if stream.cached_info().state.messages == 0 {
            return Some(());
        }
        tokio::time::sleep(LOOK).await;
        None
    })
    .await?;
    let took = begun.elapsed();
    let received = bed.messages_received().await? - received;
    let per_second = rate(builds, took);
    let mut cells = vec![
        ("builds", builds.to_string()),
        ("builds/s", format!("{per_second:.0}")),
        ("of the ceiling", format!("{:.2}", per_second / ceiling)),
        ("messages to NATS each", format!("{:.1}", received as f64 / builds as f64)),
    ];
    cells.extend(cpu.each(builds));
    let goals = match shown {
        Shown::All => {
            let ratio = per_second / ceiling;
            vec![Goal::at_least("of the ceiling", goals::THROUGH_QUEUE, ratio, "x")]
        }
        Shown::First => Vec::new(),
    };
    let name = format!(
        "builds through claim, events, log and confirmed ack, {stages} stage events each, \
         {WORKERS} workers with {SLOTS} slots"
    );
    Ok(Row { section: SECTION, name, cells, goals })
}

async fn fill(bed: &Bed, builds: usize) -> anyhow::Result<()> {
    let mut submitters = JoinSet::new();
    for number in 0..CONCURRENCY {
        let mut connection = bed.connect().await?;
        let document = bed.document.clone();
        let share = builds / CONCURRENCY + usize::from(number < builds % CONCURRENCY);
        submitters.spawn(async move {
            for _ in 0..share {
                connection.submit(document.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(submitted) = submitters.join_next().await {
        submitted??;
    }
    Ok(())
}
