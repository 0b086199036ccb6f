// SPDX-License-Identifier: Apache-2.0

//! Durable submission over HTTP: as fast as possible, one by one and in batches, and the latency at
//! a fixed rate.
//!
//! Every build has an idempotency key of its own, because every submission of the command line has
//! one. The dispatcher then also asks its projection whether it knows the build.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::SECTION;
use super::bed::{Bed, Cpu};
use super::client::{Connection, fresh_key};
use super::times::{Times, rate};
use crate::goals;
use crate::row::{Goal, Row};

/// How many clients submit at once.
const CONCURRENCY: usize = 64;
const BATCHES: &str = "/v1/projects/bench/builds:batch";
/// How many builds are in a batch, and how many batches are under way at once.
const BATCH: usize = 500;
const BATCHES_AT_ONCE: usize = 4;
/// Submissions a second when the latency is measured.
const RATE: u32 = 500;

/// Measures single submissions, as fast as possible.
pub(super) async fn one_by_one(bed: &Bed, builds: usize, ceiling: f64) -> anyhow::Result<Row> {
    let left = Arc::new(AtomicUsize::new(builds));
    let mut connections = Vec::new();
    for _ in 0..CONCURRENCY {
        connections.push(bed.connect().await?);
    }
    let cpu = cpu(bed);
    let begun = Instant::now();
    let mut submitters = JoinSet::new();
    for mut connection in connections {
        let (left, document) = (Arc::clone(&left), bed.document.clone());
        submitters.spawn(async move {
            let mut times = Vec::new();
            while take(&left) {
                let sent = Instant::now();
                connection.submit(document.clone()).await?;
                times.push(sent.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::with_capacity(builds);
    while let Some(some) = submitters.join_next().await {
        times.extend(some??);
    }
    let per_second = rate(builds, begun.elapsed());
    let mut cells = rate_cells(builds, per_second, ceiling);
    cells.extend(Times::of(times)?.cells().into_iter().skip(1));
    cells.extend(cpu.each(builds));
    Ok(Row {
        section: SECTION,
        name: format!("durable submission over HTTP, one by one, {CONCURRENCY} at once"),
        cells,
        goals: vec![Goal::at_least("of the ceiling", goals::SINGLE, per_second / ceiling, "x")],
    })
}

/// Measures submissions in batches, as fast as possible.
pub(super) async fn in_batches(bed: &Bed, builds: usize, ceiling: f64) -> anyhow::Result<Row> {
    let batches = builds.div_ceil(BATCH);
    let left = Arc::new(AtomicUsize::new(batches));
    let cpu = cpu(bed);
    let begun = Instant::now();
    let mut submitters = JoinSet::new();
    for _ in 0..BATCHES_AT_ONCE {
        let (left, document) = (Arc::clone(&left), bed.document.clone());
        let mut connection = bed.connect().await?;
        submitters.spawn(async move {
            while take(&left) {
                let answer = connection.post(BATCHES, batch(&document)?).await?;
                all_accepted(&answer)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(some) = submitters.join_next().await {
        some??;
    }
    let builds = batches * BATCH;
    let per_second = rate(builds, begun.elapsed());
    let mut cells = rate_cells(builds, per_second, ceiling);
    cells.extend(cpu.each(builds));
    Ok(Row {
        section: SECTION,
        name: format!("durable submission over HTTP, in batches of {BATCH}"),
        cells,
        goals: vec![Goal::at_least("of the ceiling", goals::BATCH, per_second / ceiling, "x")],
    })
}

/// Returns the body of a batch: the same request many times, each under a key of its own.
fn batch(document: &[u8]) -> anyhow::Result<Bytes> {
    let document = str::from_utf8(document).context("the request is no text")?;
    let open = document.strip_suffix('}').context("the request is no JSON object")?;
    let mut body = String::with_capacity(BATCH * (document.len() + 64));
    for number in 0..BATCH {
        body.push_str(if number == 0 { "{\"builds\":[" } else { "," });
        let _ = write!(body, "{open},\"idempotency_key\":\"{}\"}}", fresh_key());
    }
    body.push_str("]}");
    Ok(body.into())
}

/// Checks that a batch's builds were all accepted as new ones.
fn all_accepted(answer: &[u8]) -> anyhow::Result<()> {
    /// The counts in the answer. Reading all of it would cost more than sending a build.
    #[derive(serde::Deserialize)]
    struct Counted {
        accepted: usize,
    }
    let Counted { accepted } = serde_json::from_slice(answer).context("the answer is not JSON")?;
    anyhow::ensure!(accepted == BATCH, "{accepted} of {BATCH} builds were accepted as new ones");
    Ok(())
}

/// Measures the latency of submissions at a fixed rate. Each is due at its own time, also when
/// earlier ones are late, and its latency counts from then.
pub(super) async fn open_loop(bed: &Bed, seconds: u64) -> anyhow::Result<Row> {
    let count = RATE * u32::try_from(seconds).context("too long")?;
    let (free, idle) = mpsc::unbounded_channel::<Connection>();
    for _ in 0..CONCURRENCY {
        free.send(bed.connect().await?)?;
    }
    let idle = Arc::new(Mutex::new(idle));
    let cpu = cpu(bed);
    let mut submissions = JoinSet::new();
    let begun = tokio::time::Instant::now() + Duration::from_millis(20);
    for number in 0..count {
        let due = begun + Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until(due).await;
        let (free, idle, document) = (free.clone(), Arc::clone(&idle), bed.document.clone());
        submissions.spawn(async move {
            let connection = idle.lock().await.recv().await;
            let mut connection = connection.context("every connection is lost")?;
            connection.submit(document).await?;
            let took = due.elapsed();
            free.send(connection)?;
            anyhow::Ok(took)
        });
    }
    let mut times = Vec::new();
    while let Some(took) = submissions.join_next().await {
        times.push(took??);
    }
    let times = Times::of(times)?;
    let mut cells = times.cells();
    cells.extend(cpu.each(count as usize));
    Ok(Row {
        section: SECTION,
        name: format!("latency of submission at {RATE}/s, from when it was due"),
        cells,
        goals: Vec::new(),
    })
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn cpu(bed: &Bed) -> Cpu {
    Cpu::since_now(&[
        ("nats-server", bed.nats.process(0).id()),
        ("dispatcher", bed.dispatcher.id()),
        ("client", std::process::id()),
    ])
}

fn rate_cells(builds: usize, per_second: f64, ceiling: f64) -> Vec<(&'static str, String)> {
    vec![
        ("builds", builds.to_string()),
        ("builds/s", format!("{per_second:.0}")),
        ("of the ceiling", format!("{:.2}", per_second / ceiling)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn each_build_of_a_batch_has_a_key_of_its_own() {
        let body = batch(br#"{"image":"r/a:1"}"#).expect("it is a request");
        let body: Value = serde_json::from_slice(&body).expect("it is JSON");
        let builds = body["builds"].as_array().expect("a list");
        let keys: HashSet<_> =
            builds.iter().filter_map(|b| b["idempotency_key"].as_str()).collect();
        assert_eq!((builds.len(), keys.len()), (BATCH, BATCH));
        assert_eq!(builds[0]["image"], "r/a:1");
    }
}
