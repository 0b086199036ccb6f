// SPDX-License-Identifier: Apache-2.0

//! Waits at start until NATS can answer: how long, and for what.
//!
//! After a power failure all machines start at once, and a cluster needs some seconds to elect its
//! leaders. A worker that gave up would come back only after its supervisor's pause, which grows to
//! minutes. An error that does not pass by itself, such as a refused password or a server without
//! JetStream, is returned at once.

use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError,
    RequestErrorKind,
};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use tokio::time::Instant;

use crate::topology::SetupError;
use crate::{ConnectError, NatsConfig, Queue};

/// How long a server may take to appear: longer than one needs to start together with this process,
/// and short enough that a wrong address is reported while somebody is still looking.
pub const SERVER_APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// How long JetStream may take to become ready once the server is there: longer than a cluster needs
/// to elect its leaders, and short enough that a JetStream that never comes is noticed.
pub const JETSTREAM_READY_WITHIN: Duration = Duration::from_secs(60);

/// The pause between two tries.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

impl Queue {
    /// Connects, and waits at most [`SERVER_APPEARS_WITHIN`] for a server that is just starting.
    ///
    /// Streams and buckets are made by [`ensure_topology`](Self::ensure_topology).
    ///
    /// # Errors
    ///
    /// When no server can be reached in that time, or at once when it refuses the credentials.
    pub async fn connect(config: &NatsConfig, client_name: &str) -> Result<Self, ConnectError> {
        let connect = async || Self::connect_once(config, client_name).await;
        patiently("NATS", SERVER_APPEARS_WITHIN, connect, ConnectError::may_pass).await
    }

    /// Runs the first steps of a process in JetStream, and repeats them for at most
    /// [`JETSTREAM_READY_WITHIN`] while it is not ready to answer.
    ///
    /// # Errors
    ///
    /// The error of the last try: one that does not pass by itself, or the one at the end of that
    /// time.
    pub async fn when_ready<T>(
        &self,
        steps: impl AsyncFn() -> Result<T, SetupError>,
    ) -> Result<T, SetupError> {
        patiently("JetStream", JETSTREAM_READY_WITHIN, steps, may_pass).await
    }
}

/// Tries again while the error may pass by itself, within a time.
async fn patiently<T, E: Error + 'static>(
    what: &str,
    within: Duration,
    steps: impl AsyncFn() -> Result<T, E>,
    may_pass: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    let mut is_reported = false;
    loop {
        let error = match steps().await {
            Err(error) if may_pass(&error) && begun.elapsed() < within => error,
            outcome => return outcome,
        };
        if !is_reported {
            let seconds = within.as_secs();
            let cause = error.source().map(ToString::to_string);
            tracing::warn!(%error, cause, "{what} is not ready; waiting at most {seconds} s for \
                it");
            is_reported = true;
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// Returns whether an error says that there is no leader, that no answer came in time, or that
/// another process was faster.
fn may_pass(error: &SetupError) -> bool {
    let source = match error {
        SetupError::Refused { source, .. } => &**source,
        SetupError::Query(error) => error.cause(),
        SetupError::Differs { .. } => return false,
    };
    if let Some(error) = source.downcast_ref::<GetStreamError>() {
        return match error.kind() {
            GetStreamErrorKind::Request => timed_out(error),
            GetStreamErrorKind::JetStream(answer) => has_no_leader(&answer),
            _ => false,
        };
    }
    if let Some(error) = source.downcast_ref::<CreateStreamError>() {
        return match error.kind() {
            CreateStreamErrorKind::TimedOut => true,
            CreateStreamErrorKind::JetStream(answer) => {
                has_no_leader(&answer) || was_made_meanwhile(&answer)
            }
            _ => false,
        };
    }
    if let Some(error) = source.downcast_ref::<ConsumerError>() {
        return match error.kind() {
            ConsumerErrorKind::TimedOut => true,
            ConsumerErrorKind::JetStream(answer) => has_no_leader(&answer),
            _ => false,
        };
    }
    false
}

fn timed_out(error: &GetStreamError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|error| error.kind() == RequestErrorKind::TimedOut)
}

/// Another process made the stream after this one had looked for it, with other settings: a worker
/// does not have those of the dispatcher. The next look finds it.
fn was_made_meanwhile(answer: &jetstream::Error) -> bool {
    answer.error_code() == ErrorCode::STREAM_NAME_EXIST
}

/// Returns whether the cluster has no leader, or one that was just elected and does not know the
/// other servers yet.
fn has_no_leader(answer: &jetstream::Error) -> bool {
    [
        ErrorCode::CLUSTER_NOT_AVAILABLE,
        ErrorCode::CLUSTER_NOT_LEADER,
        ErrorCode::CLUSTER_NOT_ACTIVE,
        ErrorCode::CLUSTER_NOT_ASSIGNED,
        ErrorCode::CLUSTER_NO_PEERS,
    ]
    .contains(&answer.error_code())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;
    use crate::QueryError;

    #[derive(Debug, thiserror::Error)]
    #[error("not now")]
    struct NotNow {
        passes: bool,
    }

    async fn tries(within: Duration, succeeds_at: u32, passes: bool) -> (Result<(), NotNow>, u32) {
        let tries = Cell::new(0);
        let steps = async || {
            tries.set(tries.get() + 1);
            if tries.get() == succeeds_at { Ok(()) } else { Err(NotNow { passes }) }
        };
        let outcome = patiently("it", within, steps, |error| error.passes).await;
        (outcome, tries.get())
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_within_the_time_and_nothing_else() {
        let within = CONNECT_PAUSE * 4;
        let (outcome, count) = tries(within, 3, true).await;
        assert!(outcome.is_ok() && count == 3, "{count}");
        let (outcome, count) = tries(within, 9, true).await;
        assert!(outcome.is_err() && count == 5, "{count}");
        let (outcome, count) = tries(within, 3, false).await;
        assert!(outcome.is_err() && count == 1, "{count}");
    }

    #[test]
    fn a_cluster_without_a_leader_is_waited_for_and_a_server_without_jetstream_is_not() {
        let refused = |code: u64| {
            let answer = json!({ "code": 503, "err_code": code, "description": "no" });
            let answer: jetstream::Error = serde_json::from_value(answer).expect("an answer");
            let error = GetStreamError::new(GetStreamErrorKind::JetStream(answer));
            SetupError::from(QueryError::of_stream("BUILDS", error))
        };
        for code in [10005, 10006, 10007, 10008, 10009] {
            assert!(may_pass(&refused(code)), "{code}");
        }
        for code in [10039, 10076, 10047] {
            assert!(!may_pass(&refused(code)), "{code}");
        }
        let setting = SetupError::Differs { what: "stream BUILDS".to_owned(), setting: "discard" };
        assert!(!may_pass(&setting));
    }
}
