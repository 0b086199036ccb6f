// SPDX-License-Identifier: Apache-2.0

//! How often and how soon a request is repeated.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::ClientError;

/// How often a request is sent at most. With the pauses below that is about a minute: longer than
/// the restart of a dispatcher, shorter than the patience of who waits for it.
pub(super) const MAX_TRIES: u32 = 10;

/// The first pause; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause, also of those that the server asks for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Through what a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// The server answers that it is busy.
    Busy,
    /// Also its being away, when nobody knows whether the request was done: only for what is the
    /// same done twice.
    Away,
}

/// Counts the tries of one request.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failed: u32,
}

impl Retries {
    /// Returns how long to wait before the next try; `None` when there is to be none.
    pub(super) fn after(&mut self, error: &ClientError, patience: Patience) -> Option<Duration> {
        let answered =
            matches!(error, ClientError::Refused { .. } | ClientError::Unexpected { .. });
        self.failed += 1;
        if self.failed >= MAX_TRIES
            || !error.is_transient()
            || !(answered || patience == Patience::Away)
        {
            return None;
        }
        let asked = match error {
            ClientError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        Some(asked.unwrap_or_else(|| pause(self.failed)).min(LONGEST_PAUSE))
    }
}

/// Returns the pause behind the given number of failures.
pub(super) fn pause(failed: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
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
        assert!(pauses.is_sorted());
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(90));
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_if_twice_is_the_same() {
        let lost = ClientError::Lost { server: String::new(), cause: String::new() };
        assert_eq!(Retries::default().after(&lost, Patience::Busy), None);
        assert_eq!(Retries::default().after(&lost, Patience::Away), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_final_refusal_is_not_repeated() {
        assert_eq!(Retries::default().after(&refused(422, None), Patience::Away), None);
    }
}
