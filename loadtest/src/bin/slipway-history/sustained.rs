// SPDX-License-Identifier: Apache-2.0

//! Events at a steady rate for a while, with clients that follow them: whether projection and
//! fan-out keep up, and whether the dispatcher's memory grows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::context::PublishAckFuture;
use futures::FutureExt as _;
use serde_json::{Value, json};
use slipway_proto::ProjectName;
use slipway_proto::event::Event;
use slipway_proto::subject::Subjects;
use tokio::io::AsyncReadExt as _;

use crate::http::Connection;
use crate::system::System;
use crate::{Options, events, fill};

/// The number of the first build, greater than all in the history.
const FIRST: u64 = 20_000_000;

/// How many builds are under way at once, their events one after the other.
const TOGETHER: u64 = 64;

/// How many events may wait for their confirmation before the next is sent.
const WINDOW: usize = 5000;

/// How often events are sent.
const TICK: Duration = Duration::from_millis(2);

/// How often the state of the dispatcher is read.
const LOOKS: u32 = 30;

/// How long projection and followers may take to have everything after the last event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes events for so many seconds.
pub(crate) async fn measure(system: &System, options: &Options) -> anyhow::Result<Value> {
    let Options { sustained, rate, followers, .. } = *options;
    if sustained == 0 {
        return Ok(Value::Null);
    }
    let told = follow(system, followers).await?;
    let mut load = Load::start(system).await?;
    let mut looks = Looks { system, http: Connection::open(system.address()).await? };
    let mut seen = vec![looks.take(&load, Duration::ZERO).await?];
    let length = Duration::from_secs(u64::from(sustained));
    let started = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    while started.elapsed() < length {
        tick.tick().await;
        let due = started.elapsed().min(length).as_secs_f64() * f64::from(rate);
        while (load.published as f64) < due {
            load.publish().await?;
        }
        load.confirm()?;
        let number = u32::try_from(seen.len())?;
        if started.elapsed() >= length * number / LOOKS {
            seen.push(looks.take(&load, started.elapsed()).await?);
        }
    }
    let published_s = started.elapsed().as_secs_f64();
    load.confirm_all().await?;
    let confirmed = Instant::now();
    while looks.folded().await? < load.sequence {
        anyhow::ensure!(confirmed.elapsed() < PATIENCE, "the projection does not catch up");
        tokio::time::sleep(TICK).await;
    }
    let folded_ms = confirmed.elapsed().as_secs_f64() * 1e3;
    for (project, frames) in &told {
        let expected = load.by_project.get(project).copied().unwrap_or(0);
        while frames.load(Ordering::Relaxed) < expected {
            anyhow::ensure!(confirmed.elapsed() < PATIENCE, "a follower misses events");
            tokio::time::sleep(TICK).await;
        }
    }
    let told_ms = confirmed.elapsed().as_secs_f64() * 1e3;
    Ok(json!({
        "events": load.published,
        "events_per_s": load.published as f64 / published_s,
        "followers": told.len(),
        "frames": told.iter().map(|(_, frames)| frames.load(Ordering::Relaxed)).sum::<u64>(),
        "all_folded_after_ms": folded_ms,
        "all_told_after_ms": told_ms,
        "looks": seen,
    }))
}

/// Opens the streams of events of so many clients, each of the next project, and counts the frames
/// that each reads.
async fn follow(
    system: &System,
    clients: u64,
) -> anyhow::Result<Vec<(ProjectName, Arc<AtomicU64>)>> {
    let mut told = Vec::new();
    for client in 0..clients {
        let project = events::project(client)?;
        let connection = Connection::open(system.address()).await?;
        let path = format!("/v1/projects/{project}/events");
        let mut stream = connection.follow(&path).await?;
        let frames = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&frames);
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            let mut last = 0;
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                // Each event has one such line, and its data has no line breaks.
                let mut found = 0;
                for &byte in &buffer[..read] {
                    found += u64::from(last == b'\n' && byte == b'e');
                    last = byte;
                }
                counter.fetch_add(found, Ordering::Relaxed);
            }
        });
        told.push((project, frames));
    }
    Ok(told)
}

/// What is published.
struct Load {
    jetstream: async_nats::jetstream::Context,
    subjects: Subjects,
    unconfirmed: VecDeque<<PublishAckFuture as IntoFuture>::IntoFuture>,
    published: u64,
    by_project: HashMap<ProjectName, u64>,
    /// The last sequence that was confirmed.
    sequence: u64,
    next: u64,
    under_way: VecDeque<(u64, std::vec::IntoIter<Event>)>,
}

impl Load {
    async fn start(system: &System) -> anyhow::Result<Self> {
        Ok(Self {
            jetstream: system.jetstream().await?,
            subjects: Subjects::default(),
            unconfirmed: VecDeque::new(),
            published: 0,
            by_project: HashMap::new(),
            sequence: 0,
            next: FIRST,
            under_way: VecDeque::new(),
        })
    }

    /// Publishes the next event of the build whose turn it is.
    async fn publish(&mut self) -> anyhow::Result<()> {
        while self.under_way.len() < usize::try_from(TOGETHER)? {
            self.under_way.push_back((self.next, events::of(self.next, u64::MAX)?.into_iter()));
            self.next += 1;
        }
        let (number, mut rest) = self.under_way.pop_front().context("there are many")?;
        let event = rest.next().context("a build under way has events left")?;
        if !rest.as_slice().is_empty() {
            self.under_way.push_back((number, rest));
        }
        let confirmation = fill::publish(&self.jetstream, &self.subjects, &event).await?;
        self.unconfirmed.push_back(confirmation.into_future());
        if self.unconfirmed.len() > WINDOW {
            let oldest = self.unconfirmed.pop_front().context("there are many")?;
            self.sequence = oldest.await?.sequence;
        }
        *self.by_project.entry(events::project(number)?).or_default() += 1;
        self.published += 1;
        Ok(())
    }

    /// Takes the confirmations that are there.
    fn confirm(&mut self) -> anyhow::Result<()> {
        while let Some(oldest) = self.unconfirmed.front_mut() {
            let Some(confirmed) = oldest.now_or_never() else { break };
            self.sequence = confirmed?.sequence;
            self.unconfirmed.pop_front();
        }
        Ok(())
    }

    async fn confirm_all(&mut self) -> anyhow::Result<()> {
        for confirmation in self.unconfirmed.drain(..) {
            self.sequence = confirmation.await?.sequence;
        }
        Ok(())
    }
}

/// Reads the state of the dispatcher.
struct Looks<'a> {
    system: &'a System,
    http: Connection,
}

impl Looks<'_> {
    async fn take(&mut self, load: &Load, at: Duration) -> anyhow::Result<Value> {
        let mut look = self.system.usage()?;
        look["at_s"] = json!(at.as_secs_f64());
        look["published"] = json!(load.published);
        look["unconfirmed"] = json!(load.unconfirmed.len());
        look["unfolded"] = json!(load.sequence.saturating_sub(self.folded().await?));
        Ok(look)
    }

    /// Returns the sequence of the last event that was folded.
    async fn folded(&mut self) -> anyhow::Result<u64> {
        let (_, page) = self.http.get("/metrics").await?;
        let page = String::from_utf8(page)?;
        let value = page.lines().find_map(|line| line.strip_prefix("slipway_projection_sequence "));
        Ok(value.context("the metric is there")?.parse()?)
    }
}
