// SPDX-License-Identifier: Apache-2.0

//! Events as a subscriber of NATS sees them.

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::StreamExt as _;
use serde_json::Value;

use crate::wait;

/// Reads all published events, in order.
///
/// # Panics
///
/// When NATS does not answer in time.
pub async fn all(nats_url: &str) -> Vec<Value> {
    let client = async_nats::connect(nats_url).await.expect("NATS is there");
    let stream = async_nats::jetstream::new(client).get_stream("EVENTS").await.expect("a stream");
    let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    let mut seen = Vec::new();
    let mut pending = 1;
    while pending > 0 {
        let message = tokio::time::timeout(wait::SOON, messages.next()).await.expect("in time");
        let message = message.expect("a message").expect("no error");
        pending = message.info().expect("of a stream").pending;
        seen.push(serde_json::from_slice(&message.payload).expect("JSON"));
    }
    seen
}

/// Returns the last word of the type of each event of a build, in order.
#[must_use]
pub fn of<'a>(build: &str, events: &'a [Value]) -> Vec<&'a str> {
    let types = events.iter().filter(|event| event["subject"] == build).map(|event| {
        // `dev.slipway.build.<word>.v1`
        event["type"].as_str().and_then(|kind| kind.split('.').nth(3)).unwrap_or_default()
    });
    types.collect()
}
