// SPDX-License-Identifier: Apache-2.0

//! Learns of outcomes by the events of the project.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use slipway_client::{Client, Events, Followed, Follower};
use slipway_proto::BuildId;
use slipway_proto::api::StateName;
use slipway_proto::event::{Event, EventBody, Outcome};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Submitted;

/// How long the events may take to open.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// How often to look whether all builds have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// After so long without any outcome, the missing builds are asked for one by one: an event may
/// have been lost, and the load test should say so instead of waiting for it.
const DOUBT: Duration = Duration::from_secs(10);

/// How a build ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// When its event arrived.
    pub(crate) at: Instant,
    /// Why it did not succeed.
    pub(crate) failure: Option<String>,
    /// Whether no event told of it.
    pub(crate) unheard: bool,
}

pub(crate) type Outcomes = HashMap<BuildId, Ended>;

/// Watches the events of a project.
pub(crate) struct Watch {
    outcomes: Arc<Mutex<Outcomes>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts to watch; from its return on nothing is missed.
    pub(crate) async fn start(client: &Client) -> anyhow::Result<Self> {
        let mut events = client.events(Events::Coming, None);
        let first = timeout(OPEN_DEADLINE, events.next()).await;
        match first.context("the events do not open")?? {
            Followed::Lost(error) => return Err(error).context("failed to follow the events"),
            Followed::Opened | Followed::Event(_) | Followed::Ended => {}
        }
        let outcomes = Arc::new(Mutex::new(Outcomes::new()));
        let seen = Arc::clone(&outcomes);
        let task = tokio::spawn(async move { collect(events, &seen).await });
        Ok(Self { outcomes, task })
    }

    /// Waits until all of these builds have ended, or the deadline.
    pub(crate) async fn wait_for(
        self,
        client: &Client,
        submitted: &[Submitted],
        deadline: Instant,
    ) -> Outcomes {
        let (mut count, mut since) = (0, Instant::now());
        loop {
            let known = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).len();
            if known != count {
                (count, since) = (known, Instant::now());
            }
            let missing = self.missing(submitted);
            if missing.is_empty() || Instant::now() > deadline {
                break;
            }
            if since.elapsed() > DOUBT {
                since = Instant::now();
                self.ask_for(client, &missing).await;
            }
            sleep(LOOK_INTERVAL).await;
        }
        self.task.abort();
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn missing(&self, submitted: &[Submitted]) -> Vec<BuildId> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = |build: &BuildId| outcomes.contains_key(build);
        submitted.iter().map(|one| one.build).filter(|build| !ended(build)).collect()
    }

    async fn ask_for(&self, client: &Client, missing: &[BuildId]) {
        for id in missing {
            let Ok(build) = client.build_now(*id).await else { return };
            if !build.state.is_finished() {
                continue;
            }
            let failure = (build.state != StateName::Succeeded).then(|| {
                build.failure.map_or_else(|| build.state.as_str().to_owned(), |f| f.to_string())
            });
            let ended = Ended { at: Instant::now(), failure, unheard: true };
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.entry(*id).or_insert(ended);
        }
    }
}

async fn collect(mut events: Follower, outcomes: &Mutex<Outcomes>) {
    while let Ok(followed) = events.next().await {
        let Followed::Event(event) = followed else { continue };
        let at = Instant::now();
        let Ok(event) = serde_json::from_str::<Event>(&event.data) else { continue };
        let EventBody::Finished(finished) = event.body else { continue };
        let failure = match finished.outcome {
            Outcome::Succeeded { .. } => None,
            Outcome::Failed { failure } => Some(failure.to_string()),
            Outcome::Cancelled { message } => Some(format!("cancelled: {message}")),
        };
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.entry(event.subject).or_insert(Ended { at, failure, unheard: false });
    }
}
