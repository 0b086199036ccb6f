// SPDX-License-Identifier: Apache-2.0

//! Filling the stream of events.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::Stream;
use futures::StreamExt as _;
use serde_json::{Value, json};
use slipway_proto::event::Event;
use slipway_proto::subject::Subjects;

use crate::events;
use crate::system::System;

/// How many builds are under way at once, their events one after the other.
const TOGETHER: u64 = 64;

/// The consumer through which dispatchers find logs to archive.
const ARCHIVER: &str = "log-archiver";

/// How many outcomes are read from it at once.
const TAKEN: usize = 5000;

/// How many events may wait for their confirmation.
const WINDOW: usize = 2000;

/// Publishes the events of a number of builds, unless the stream already holds some.
pub(crate) async fn fill(system: &mut System, builds: u64) -> anyhow::Result<Value> {
    let jetstream = system.jetstream().await?;
    let subjects = Subjects::default();
    if let Ok(stream) = jetstream.get_stream(subjects.events_stream()).await
        && let state = &stream.cached_info().state
        && state.messages > 0
    {
        archived(&stream).await?;
        return Ok(json!({"events": state.messages, "bytes": state.bytes}));
    }
    // Makes the streams.
    system.restart().await?;
    system.stop_dispatcher().await?;
    let started = Instant::now();
    let mut unconfirmed = VecDeque::new();
    let mut published = 0_u64;
    for first in (0..builds).step_by(usize::try_from(TOGETHER)?) {
        let numbers = first..builds.min(first + TOGETHER);
        let mut histories =
            numbers.map(|number| events::of(number, builds)).collect::<Result<Vec<_>, _>>()?;
        histories.iter_mut().for_each(|history| history.reverse());
        while histories.iter().any(|history| !history.is_empty()) {
            for event in histories.iter_mut().filter_map(Vec::pop) {
                unconfirmed.push_back(publish(&jetstream, &subjects, &event).await?);
                published += 1;
                if unconfirmed.len() > WINDOW {
                    unconfirmed.pop_front().context("there are many")?.await?;
                }
            }
        }
    }
    for confirmation in unconfirmed {
        confirmation.await?;
    }
    let stream = jetstream.get_stream(subjects.events_stream()).await?;
    let bytes = stream.cached_info().state.bytes;
    let seconds = started.elapsed().as_secs_f64();
    let per_s = published as f64 / seconds;
    archived(&stream).await?;
    Ok(json!({"builds": builds, "events": published, "bytes": bytes, "events_per_s": per_s}))
}

/// Marks the logs of all builds as archived, as they are after a real history. The dispatcher would
/// otherwise look for a million logs during the measurement.
async fn archived(stream: &Stream) -> anyhow::Result<()> {
    let mut consumer: Consumer<pull::Config> = stream
        .get_consumer(ARCHIVER)
        .await
        .map_err(|error| anyhow::anyhow!("no consumer {ARCHIVER}: {error}"))?;
    loop {
        // Messages that a dispatcher has taken are delivered again after a minute.
        let info = consumer.info().await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.fetch().max_messages(TAKEN).messages().await?;
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| anyhow::anyhow!(error))?;
            message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
        }
    }
}

/// Publishes one event. It has no message id, because the server would remember millions of them for
/// two minutes.
pub(crate) async fn publish(
    jetstream: &Context,
    subjects: &Subjects,
    event: &Event,
) -> anyhow::Result<PublishAckFuture> {
    let subject = subjects.event(&event.source.project, event.subject, &event.body);
    let mut headers = HeaderMap::new();
    headers.insert("Slipway-Build-Id", event.subject.to_string());
    let payload = serde_json::to_vec(event)?;
    Ok(jetstream.publish_with_headers(subject, headers, payload.into()).await?)
}
