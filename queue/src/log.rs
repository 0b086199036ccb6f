// SPDX-License-Identifier: Apache-2.0

//! Chunks of build logs in the stream `LOGS`.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, ProjectName};

use crate::Queue;
use crate::read::{ReadError, Reader};

impl Queue {
    /// Publishes a chunk of a build's log, and returns the acknowledgement to wait for.
    ///
    /// Chunks sent one after the other on this connection are stored in that order.
    ///
    /// # Errors
    ///
    /// When the message cannot be sent.
    pub async fn send_log(
        &self,
        project: &ProjectName,
        build: BuildId,
        epoch: Epoch,
        number: u64,
        text: Bytes,
    ) -> Result<PublishAckFuture, async_nats::Error> {
        let message = PublishMessage::build()
            .payload(text)
            .message_id(format!("{build}:{epoch}:log:{number}"))
            .header("Slipway-Log-Epoch", epoch.to_string().as_str())
            .header("Slipway-Log-Chunk", number.to_string().as_str());
        Ok(self.jetstream.send_publish(self.subjects.log(project, build), message).await?)
    }

    /// Reads a build's log from its first chunk, or behind a sequence.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn read_log(
        &self,
        project: &ProjectName,
        build: BuildId,
        after: Option<u64>,
    ) -> Result<Reader, ReadError> {
        let from = after.map_or(DeliverPolicy::All, |sequence| DeliverPolicy::ByStartSequence {
            start_sequence: sequence + 1,
        });
        Reader::open(self, &self.subjects.logs_stream(), &self.subjects.log(project, build), from)
            .await
    }

    /// Returns the sequence of the last chunk of a build's log that the stream holds.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn end_of_log(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<Option<u64>, async_nats::Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
        let stream = self.jetstream.get_stream_no_info(self.subjects.logs_stream()).await?;
        let subject = self.subjects.log(project, build);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) => match error.kind() {
                Kind::NoMessageFound => Ok(None),
                Kind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                    Ok(None)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Removes a build's log from the stream.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn purge_log(
        &self,
        project: &ProjectName,
        build: BuildId,
    ) -> Result<(), async_nats::Error> {
        let stream = self.jetstream.get_stream_no_info(self.subjects.logs_stream()).await?;
        stream.purge().filter(self.subjects.log(project, build)).await?;
        Ok(())
    }
}
