// SPDX-License-Identifier: Apache-2.0

//! A message of the work queue that was delivered to this process, and the answers to it.
//!
//! Every answer waits for the server's confirmation. Without one, a finished build would be
//! delivered again, and a worker would trust a lease that the server never extended.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use slipway_proto::subject::RequestSubject;
use slipway_proto::{BuildId, BuildRequest, Digest, ProjectName, Timestamp, codec};

use crate::failpoint::is_off;
use crate::publish::header;

/// How often an answer is sent before the message is left to be delivered again.
const MAX_ANSWER_TRIES: u32 = 3;

/// A message of the work queue, delivered to this process and not answered yet.
///
/// It is leased for [`ACK_WAIT`](crate::topology::ACK_WAIT): without an answer or an extension
/// within that time the server delivers it again.
#[derive(Debug, Clone)]
pub struct Delivery {
    message: Message,
    sequence: u64,
    count: u64,
}

/// A build request from the queue.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The request.
    pub request: BuildRequest,
    /// The digest of the submitted document.
    pub submission: Digest,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its place in the order of acceptance.
    pub order: u64,
}

/// An answer to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The build has its outcome: remove the message from the queue.
    Done,
    /// Deliver the message again, at once or after a delay.
    GiveBack(Option<Duration>),
    /// The work goes on: count the lease from now.
    Extend,
    /// The message can never be built: remove it from the queue.
    Reject,
}

impl From<Answer> for AckKind {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Self::Ack,
            Answer::GiveBack(delay) => Self::Nak(delay),
            Answer::Extend => Self::Progress,
            Answer::Reject => Self::Term,
        }
    }
}

/// The server did not confirm an answer. It may have received it nevertheless.
#[derive(Debug, thiserror::Error)]
#[error("NATS did not confirm an answer to a delivery")]
pub struct Unconfirmed(#[source] async_nats::Error);

/// Why a message of the queue is not a build request.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The bytes do not decode.
    #[error("the request does not decode")]
    Codec(#[from] codec::CodecError),
    /// The bytes are not those that were published.
    #[error(
        "the request's bytes are corrupt: their digest is {actual}, and {expected} was published"
    )]
    Corrupt {
        /// The digest in the header.
        expected: String,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// A header is missing or does not parse.
    #[error("the header {0} is missing or malformed")]
    Header(&'static str),
}

impl Delivery {
    /// Takes a message from a consumer.
    ///
    /// # Errors
    ///
    /// When its reply subject is not that of a delivery, so that it cannot be answered.
    pub(crate) fn of(message: Message) -> Result<Self, async_nats::Error> {
        let info = message.info()?;
        let (sequence, count) = (info.stream_sequence, info.delivered);
        let count = u64::try_from(count)?;
        Ok(Self { message, sequence, count })
    }

    /// Returns the request.
    ///
    /// # Errors
    ///
    /// When the message is not a request or was corrupted on its way. Then it can never be built.
    pub fn read(&self) -> Result<Delivered, DeliveryError> {
        read(self.message.headers.as_ref(), &self.message.payload)
    }

    /// Returns the message's sequence in the queue.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns how often the message was delivered, this time included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether the message was delivered before.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.count > 1
    }

    /// Returns the subject of the message.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Returns the project and the build that the subject names, if it names one of each.
    #[must_use]
    pub fn ids(&self) -> Option<(ProjectName, BuildId)> {
        RequestSubject::parse(self.subject())?.ids()
    }

    /// Extends the lease, which counts from the moment of this call at the earliest.
    ///
    /// # Errors
    ///
    /// When no confirmation came. The server may have extended the lease nevertheless.
    pub async fn extend(&self) -> Result<(), Unconfirmed> {
        self.confirmed(Answer::Extend).await
    }

    /// Answers, up to three times until the server confirms it.
    ///
    /// # Errors
    ///
    /// When no confirmation came. The message is then delivered again, unless the answer arrived.
    pub async fn answer(&self, answer: Answer) -> Result<(), Unconfirmed> {
        if is_off("confirmed-ack") {
            return self.message.ack_with(answer.into()).await.map_err(Unconfirmed);
        }
        let mut tries = 1;
        loop {
            match self.confirmed(answer).await {
                Err(error) if tries < MAX_ANSWER_TRIES => {
                    let subject = self.subject();
                    tracing::warn!(%error, subject, tries, "sending an answer again");
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives back a message that was delivered after the last place for it was taken. Nobody waits
    /// for a confirmation: without one the message is delivered again when its lease ends.
    pub async fn decline(&self) {
        if let Err(error) = self.message.ack_with(AckKind::Nak(None)).await {
            tracing::debug!(%error, subject = self.subject(), "a surplus build was not given back");
        }
    }

    /// Sends an answer and waits for the server's confirmation.
    ///
    /// Uses the client's common inbox, and not `double_ack_with` of async-nats 0.51: that
    /// subscribes to an inbox for each answer, three lines to the server instead of one, and takes
    /// "no responders" for a confirmation.
    async fn confirmed(&self, answer: Answer) -> Result<(), Unconfirmed> {
        let reply = self.message.reply.clone().expect("a delivery has a reply subject");
        let payload = AckKind::from(answer).into();
        let confirmation = self.message.context.client().request(reply, payload).await;
        confirmation.map(drop).map_err(|error| Unconfirmed(error.into()))
    }

    /// Returns the headers, for a copy of the message.
    pub(crate) fn headers(&self) -> HeaderMap {
        self.message.headers.clone().unwrap_or_default()
    }

    /// Returns the bytes, for a copy of the message.
    pub(crate) fn payload(&self) -> bytes::Bytes {
        self.message.payload.clone()
    }
}

/// Reads a request from its message.
fn read(headers: Option<&HeaderMap>, payload: &[u8]) -> Result<Delivered, DeliveryError> {
    let text = |name: &'static str| {
        let value = headers.and_then(|headers| headers.get(name));
        value.map(async_nats::HeaderValue::as_str).ok_or(DeliveryError::Header(name))
    };
    let expected = text(header::SPEC_DIGEST)?;
    let actual = codec::spec_digest(payload);
    if expected != actual.to_string() {
        return Err(DeliveryError::Corrupt { expected: expected.to_owned(), actual });
    }
    let malformed = DeliveryError::Header;
    Ok(Delivered {
        request: codec::decode(payload)?,
        submission: text(header::SUBMISSION_DIGEST)?
            .parse()
            .map_err(|_| malformed(header::SUBMISSION_DIGEST))?,
        accepted_at: text(header::ACCEPTED_AT)?
            .parse()
            .map_err(|_| malformed(header::ACCEPTED_AT))?,
        order: text(header::ORDER)?.parse().map_err(|_| malformed(header::ORDER))?,
    })
}

#[cfg(test)]
mod tests;
