// SPDX-License-Identifier: Apache-2.0

//! Accepting many builds at once, each by itself: by the same steps as a single submission, and
//! with the same answer.
//!
//! Nothing waits for the whole batch. While one request is checked, the record of one before it is
//! on its way and an earlier one is being queued, up to [`WINDOW`] at a time. Records are sent in
//! the order of the batch, so that this is the order of acceptance, which decides whose a contested
//! tag is.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use slipway_proto::{BuildId, FieldError, ProjectName, Submission};

use super::acceptance::{Acceptance, Started};
use super::check::check;
use super::{AcceptError, Accepted, SubmissionHeaders};
use crate::app::App;

/// How many requests of a batch are checked, and how many stored, at the same time: as many as keep
/// the connection busy (256 in flight are 90 % of what a server takes) and few enough to leave the
/// connection's places to others.
const WINDOW: usize = 256;

/// One request of a batch.
#[derive(Debug)]
pub(crate) struct Item {
    /// The request.
    pub(crate) submission: Submission,
    /// Its idempotency key.
    pub(crate) key: Option<String>,
    /// Mistakes of what stands beside the request.
    pub(crate) mistakes: Vec<FieldError>,
}

type Outcome = Result<Accepted, AcceptError>;

/// Accepts each build, or says why not, in the order of the batch.
pub(crate) async fn accept_batch(
    app: &Arc<App>,
    project: &ProjectName,
    items: Vec<Item>,
    traceparent: Option<&Arc<str>>,
) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
    let mut left: Vec<Waiting> = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let Item { submission, key, mistakes } = item;
        let headers = SubmissionHeaders { key, traceparent: traceparent.cloned() };
        let acceptance = Acceptance::new(app, project.clone(), submission.digest(), &headers);
        left.push(Waiting { place, acceptance, submission, mistakes });
    }
    while !left.is_empty() {
        let round;
        (round, left) = first_of_each(left);
        for (place, outcome) in take(app, round).await {
            outcomes[place] = Some(outcome);
        }
    }
    outcomes.into_iter().map(|outcome| outcome.expect("each was in a round")).collect()
}

/// A request that was not looked at yet.
struct Waiting {
    place: usize,
    acceptance: Acceptance,
    submission: Submission,
    mistakes: Vec<FieldError>,
}

/// Parts those that can be taken at the same time from those whose key is among them already. The
/// latter wait, so that of two requests under one key it is always the first that it belongs to.
fn first_of_each(left: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
    let mut seen: HashSet<BuildId> = HashSet::with_capacity(left.len());
    left.into_iter().partition(|waiting| seen.insert(waiting.acceptance.id()))
}

async fn take(app: &Arc<App>, round: Vec<Waiting>) -> Vec<(usize, Outcome)> {
    let checked = futures::stream::iter(round).map(|waiting| {
        let app = Arc::clone(app);
        async move {
            let Waiting { place, acceptance, submission, mistakes } = waiting;
            let request =
                check(&app, acceptance.id(), acceptance.project(), submission, mistakes).await;
            let prepared = acceptance.prepare(request).await;
            (place, acceptance, prepared)
        }
    });
    let started = checked.buffered(WINDOW).then(|(place, acceptance, prepared)| async move {
        let started: Started = acceptance.start(prepared).await;
        (place, acceptance, started)
    });
    started
        .map(
            |(place, acceptance, started)| async move { (place, acceptance.finish(started).await) },
        )
        .buffer_unordered(WINDOW)
        .collect()
        .await
}
