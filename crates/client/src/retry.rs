// SPDX-License-Identifier: Apache-2.0

//! How often and how soon a request is repeated.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use slipway_fault::{Backoff, Pauses};

use super::ClientError;

/// The largest number of tries. With the pauses below they take about a minute: longer than the
/// restart of a dispatcher, shorter than a person waits.
pub(super) const MAX_REQUEST_TRIES: u32 = 10;

/// The longest pause, also of those that the server asks for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The pauses where the server asks for none.
const REQUEST_BACKOFF: Backoff =
    match Backoff::new(Duration::from_millis(250), 2, LONGEST_PAUSE, 20) {
        Ok(backoff) => backoff,
        Err(_) => panic!("the pauses are no schedule"),
    };

/// Through what a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// The server answers that it is busy.
    Busy,
    /// Also when it is unreachable and may have carried out the request: only for requests that can
    /// be done twice.
    Away,
}

/// Counts the tries of one request.
#[derive(Debug)]
pub(super) struct Retries {
    pauses: Pauses,
}

impl Default for Retries {
    fn default() -> Self {
        Self { pauses: REQUEST_BACKOFF.pauses() }
    }
}

impl Retries {
    /// Returns how long to wait before the next try; `None` to give up.
    pub(super) fn after(&mut self, error: &ClientError, patience: Patience) -> Option<Duration> {
        let answered =
            matches!(error, ClientError::Refused { .. } | ClientError::Unexpected { .. });
        let pause = self.pauses.next_pause();
        if self.pauses.failures() >= MAX_REQUEST_TRIES
            || !error.is_transient()
            || !(answered || patience == Patience::Away)
        {
            return None;
        }
        let asked = match error {
            ClientError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        Some(asked.unwrap_or(pause).min(LONGEST_PAUSE))
    }
}

/// Reads `Retry-After` where it is a number of seconds; dispatchers write no dates.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use slipway_proto::api::Problem;

    use super::*;

    fn refused(status: u16, retry_after: Option<u64>) -> ClientError {
        let problem = Problem {
            r#type: String::new(),
            title: String::new(),
            status,
            detail: String::new(),
            code: String::new(),
            errors: Vec::new(),
        };
        ClientError::Refused {
            problem: Box::new(problem),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn the_servers_wish_is_obeyed_within_reason() {
        let mut retries = Retries::default();
        assert_eq!(
            retries.after(&refused(503, Some(2)), Patience::Away),
            Some(Duration::from_secs(2))
        );
        assert_eq!(retries.after(&refused(503, Some(9999)), Patience::Away), Some(LONGEST_PAUSE));
    }

    #[test]
    fn pauses_grow_and_tries_end() {
        let mut retries = Retries::default();
        let pauses: Vec<_> =
            std::iter::from_fn(|| retries.after(&refused(503, None), Patience::Away)).collect();
        assert_eq!(pauses.len(), 9);
        assert!(pauses.last() > pauses.first());
        assert!(pauses[0] <= Duration::from_millis(250), "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(90));
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_if_twice_is_the_same() {
        let lost = ClientError::Lost { server: String::new(), cause: String::new() };
        assert_eq!(Retries::default().after(&lost, Patience::Busy), None);
        assert!(Retries::default().after(&lost, Patience::Away).is_some());
    }

    #[test]
    fn a_final_refusal_is_not_repeated() {
        assert_eq!(Retries::default().after(&refused(422, None), Patience::Away), None);
    }
}
