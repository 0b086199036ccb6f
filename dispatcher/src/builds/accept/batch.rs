// SPDX-License-Identifier: Apache-2.0

//! Accepts many builds at once, each on its own, with the same steps and the same answer as a
//! single submission.
//!
//! No build waits for the whole batch. While one request is checked, the record of an earlier one
//! is on its way and a still earlier one is being queued, up to [`MAX_IN_FLIGHT`] at a time. Records are
//! sent in the order of the batch, which is therefore the order of acceptance and decides who keeps
//! a contested tag.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use slipway_proto::{BuildId, FieldError, ProjectName, Submission};

use super::acceptance::{Acceptance, Started};
use super::check::check;
use super::{AcceptError, Accepted, Acceptor, SubmissionHeaders};

/// How many requests of a batch are checked, and how many stored, at the same time: enough to keep
/// the connection busy (256 in flight reach 90 % of a server's rate), and few enough to leave room
/// on the connection for others.
const MAX_IN_FLIGHT: usize = 256;

/// One request of a batch.
#[derive(Debug)]
pub(crate) struct Item {
    /// The request.
    pub(crate) submission: Submission,
    /// Its idempotency key.
    pub(crate) key: Option<String>,
    /// Mistakes in the fields next to the request.
    pub(crate) mistakes: Vec<FieldError>,
}

type Outcome = Result<Accepted, AcceptError>;

/// Accepts each build, or returns why not, in the order of the batch.
pub(crate) async fn accept_batch(
    acceptor: &Arc<Acceptor>,
    project: &ProjectName,
    items: Vec<Item>,
    traceparent: Option<&Arc<str>>,
) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
    let mut left: Vec<Waiting> = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let Item { submission, key, mistakes } = item;
        let headers = SubmissionHeaders { key, traceparent: traceparent.cloned() };
        let acceptance = Acceptance::new(acceptor, project.clone(), submission.digest(), &headers);
        left.push(Waiting { place, acceptance, submission, mistakes });
    }
    while !left.is_empty() {
        let round;
        (round, left) = first_of_each(left);
        for (place, outcome) in take(acceptor, round).await {
            outcomes[place] = Some(outcome);
        }
    }
    outcomes.into_iter().map(|outcome| outcome.expect("each was in a round")).collect()
}

/// A request that has not been checked yet.
struct Waiting {
    place: usize,
    acceptance: Acceptance,
    submission: Submission,
    mistakes: Vec<FieldError>,
}

/// Separates the requests that can be handled at the same time from those whose key is already
/// among them. The latter wait, so a key always belongs to the first of two requests.
fn first_of_each(left: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
    let mut seen: HashSet<BuildId> = HashSet::with_capacity(left.len());
    left.into_iter().partition(|waiting| seen.insert(waiting.acceptance.id()))
}

async fn take(acceptor: &Arc<Acceptor>, round: Vec<Waiting>) -> Vec<(usize, Outcome)> {
    let checked = futures::stream::iter(round).map(|waiting| {
        let acceptor = Arc::clone(acceptor);
        async move {
            let Waiting { place, acceptance, submission, mistakes } = waiting;
            let request =
                check(&acceptor, acceptance.id(), acceptance.project(), submission, mistakes).await;
            let prepared = acceptance.prepare(request).await;
            (place, acceptance, prepared)
        }
    });
    let started =
        checked.buffered(MAX_IN_FLIGHT).then(|(place, acceptance, prepared)| async move {
            let started: Started = acceptance.start(prepared).await;
            (place, acceptance, started)
        });
    started
        .map(
            |(place, acceptance, started)| async move { (place, acceptance.finish(started).await) },
        )
        .buffer_unordered(MAX_IN_FLIGHT)
        .collect()
        .await
}
