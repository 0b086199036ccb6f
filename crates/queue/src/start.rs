// SPDX-License-Identifier: Apache-2.0

//! A process that starts before JetStream can answer.
//!
//! After a power failure all machines come up at once, and a cluster needs some seconds for its
//! leaders. A worker that gave up meanwhile would be back when its supervisor's pause is over, which
//! grows to minutes. What does not pass by itself, as a server without JetStream, is not waited for.

use std::error::Error as _;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError,
    RequestErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::Queue;
use crate::topology::TopologyError;

/// How long JetStream is waited for: longer than a cluster needs to elect its leaders, and short
/// enough for who waits to see that it does not come.
const WITHIN: Duration = Duration::from_secs(60);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

impl Queue {
    /// Takes a process's first steps in JetStream, again and again while that is not able to answer.
    ///
    /// # Errors
    ///
    /// That of the last try: one that does not pass by itself, or the one after a minute.
    pub async fn when_able<T>(
        &self,
        steps: impl AsyncFn() -> Result<T, TopologyError>,
    ) -> Result<T, TopologyError> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let error = match steps().await {
                Err(error) if passes(&error) && begun.elapsed() < WITHIN => error,
                outcome => return outcome,
            };
            if !told {
                let seconds = WITHIN.as_secs();
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(
                    %error,
                    cause,
                    "JetStream is not ready; waiting for it, {seconds} s at most"
                );
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Returns whether an error says that nobody leads, that nobody answered in time, or that somebody
/// else was faster.
fn passes(error: &TopologyError) -> bool {
    let TopologyError::Refused { source, .. } = error else { return false };
    if let Some(error) = source.downcast_ref::<GetStreamError>() {
        return match error.kind() {
            GetStreamErrorKind::Request => timed_out(error),
            GetStreamErrorKind::JetStream(answer) => nobody_leads(&answer),
            _ => false,
        };
    }
    if let Some(error) = source.downcast_ref::<CreateStreamError>() {
        return match error.kind() {
            CreateStreamErrorKind::TimedOut => true,
            CreateStreamErrorKind::JetStream(answer) => {
                nobody_leads(&answer) || was_made_meanwhile(&answer)
            }
            _ => false,
        };
    }
    if let Some(error) = source.downcast_ref::<ConsumerError>() {
        return match error.kind() {
            ConsumerErrorKind::TimedOut => true,
            ConsumerErrorKind::JetStream(answer) => nobody_leads(&answer),
            _ => false,
        };
    }
    false
}

fn timed_out(error: &GetStreamError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|error| error.kind() == RequestErrorKind::TimedOut)
}

/// Between a look for a stream and its making, another process made it, with other settings: a worker
/// has not those of the dispatcher. Next time it is found.
fn was_made_meanwhile(answer: &jetstream::Error) -> bool {
    answer.error_code() == ErrorCode::STREAM_NAME_EXIST
}

/// A leader that was just elected does not know yet that there are others to put a stream on.
fn nobody_leads(answer: &jetstream::Error) -> bool {
    [
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
        ErrorCode::CLUSTER_NOT_ACTIVE,
        ErrorCode::CLUSTER_NOT_ASSIGNED,
        ErrorCode::CLUSTER_NO_PEERS,
    ]
    .contains(&answer.error_code())
}
