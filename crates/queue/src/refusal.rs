// SPDX-License-Identifier: Apache-2.0

//! The meaning of the server's refusal to store a message.
//!
//! The client distinguishes only some of the cases: it reports a lost race (10071) and a write that
//! is still in process (10164) as the same failure of a key-value store, and one code of the server
//! (10077) means both a full stream and a subject that already holds a message.

use std::error::Error as _;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};

/// Why a message was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The subject is at another revision than the message names: another writer was faster.
    WrongRevision,
    /// Another write of the subject is still in process; seen on clusters. Try again.
    Busy,
    /// The subject holds a message, and the stream allows one for each.
    SubjectTaken,
    /// The stream is full.
    Full,
    /// The message is too large for the server.
    TooLarge,
    /// No answer, or one that says nothing about the message: it may have been stored.
    Unknown,
}

impl Refusal {
    /// Interprets an error of the client or the server.
    pub(crate) fn of(error: &PublishError) -> Self {
        let answer = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (error.kind(), answer.map(jetstream::Error::error_code)) {
            (PublishErrorKind::WrongLastSequence, _) => Self::WrongRevision,
            (PublishErrorKind::MaxPayloadExceeded, _) => Self::TooLarge,
            (_, Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)) => Self::Busy,
            (_, Some(ErrorCode::STREAM_STORE_FAILED)) => {
                // The text is the only difference: "maximum messages per subject exceeded" against
                // "maximum messages exceeded" and "maximum bytes exceeded".
                let is_per_subject =
                    answer.is_some_and(|answer| answer.to_string().contains("per subject"));
                if is_per_subject { Self::SubjectTaken } else { Self::Full }
            }
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The error that the client makes of a server's answer.
    fn answered(code: u64, description: &str) -> PublishError {
        let answer = json!({ "code": 503, "err_code": code, "description": description });
        let answer: jetstream::Error = serde_json::from_value(answer).expect("it is an answer");
        let kind = match answer.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE => PublishErrorKind::WrongLastSequence,
            _ => PublishErrorKind::Other,
        };
        PublishError::with_source(kind, answer)
    }

    #[test]
    fn each_code_of_the_server_means_one_thing() {
        for (code, description, refusal) in [
            (10071, "wrong last sequence: 7", Refusal::WrongRevision),
            (10164, "wrong last sequence", Refusal::Busy),
            (10077, "maximum messages per subject exceeded", Refusal::SubjectTaken),
            (10077, "maximum messages exceeded", Refusal::Full),
            (10077, "maximum bytes exceeded", Refusal::Full),
            (10077, "no space left on device", Refusal::Full),
            (10047, "insufficient storage resources available", Refusal::Unknown),
            (10008, "JetStream system temporarily unavailable", Refusal::Unknown),
        ] {
            let refusal_found = Refusal::of(&answered(code, description));
            assert_eq!(refusal_found, refusal, "{code} {description}");
        }
    }

    #[test]
    fn without_an_answer_of_the_server_the_message_may_be_stored() {
        for (kind, refusal) in [
            (PublishErrorKind::TimedOut, Refusal::Unknown),
            (PublishErrorKind::BrokenPipe, Refusal::Unknown),
            (PublishErrorKind::StreamNotFound, Refusal::Unknown),
            (PublishErrorKind::MaxPayloadExceeded, Refusal::TooLarge),
        ] {
            assert_eq!(Refusal::of(&PublishError::new(kind)), refusal, "{kind}");
        }
    }
}
