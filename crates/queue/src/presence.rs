// SPDX-License-Identifier: Apache-2.0

//! Which workers are there: a bucket that forgets an entry after 15 s, refreshed every 5 s.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::message::PublishMessage;
use futures::StreamExt as _;
use slipway_proto::api::WorkerView;
use slipway_proto::subject::{bucket_stream, bucket_subject, bucket_subjects};
use slipway_proto::{Timestamp, WorkerId};

use crate::Queue;
use crate::bucket::{Bucket, OPERATION};
use crate::publish::PublishError;
use crate::read::{ReadError, Reader};
use crate::record::RecordError;

/// How long a worker is remembered after its last announcement. Workers announce themselves every
/// 5 s.
///
/// Lower, and a worker disappears from the list when two announcements are late; higher, and one
/// that died is listed longer.
pub const PRESENCE_AGE: Duration = Duration::from_secs(15);

impl Queue {
    fn presence_subject(&self, worker: &WorkerId) -> String {
        bucket_subject(&self.subjects.workers_bucket(), worker.as_str())
    }

    /// Announces a worker for [`PRESENCE_AGE`].
    ///
    /// # Errors
    ///
    /// When the message cannot be sent. Its acknowledgement is not awaited.
    pub async fn announce(&self, worker: &WorkerView) -> Result<(), PublishError> {
        let payload = serde_json::to_vec(worker).expect("a worker is always valid JSON");
        let message = PublishMessage::build().payload(payload.into());
        let sent = self.jetstream.send_publish(self.presence_subject(&worker.id), message).await;
        sent.map(drop).map_err(|error| PublishError::Unavailable(error.into()))
    }

    /// Withdraws a worker's announcement.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn withdraw(&self, worker: &WorkerId) -> Result<(), PublishError> {
        let message =
            PublishMessage::build().header(OPERATION, "PURGE").header("Nats-Rollup", "sub");
        self.confirmed(self.presence_subject(worker), message).await
    }

    /// Reads a worker's announcement and how old it is, by this machine's clock.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn worker(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(WorkerView, Duration)>, RecordError> {
        let bucket = Bucket::new(self.jetstream.clone(), self.subjects.workers_bucket());
        let Some(entry) = bucket.get(worker.as_str()).await? else { return Ok(None) };
        let Ok(view) = serde_json::from_slice(&entry.value) else { return Ok(None) };
        let age = Timestamp::now().duration_since(entry.written_at);
        Ok(Some((view, Duration::try_from(age).unwrap_or_default())))
    }

    /// Lists the announced workers.
    ///
    /// # Errors
    ///
    /// When the bucket cannot be read.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ReadError> {
        let bucket = self.subjects.workers_bucket();
        let (stream, filter) = (bucket_stream(&bucket), bucket_subjects(&bucket));
        let reader = Reader::open(self, &stream, &filter, DeliverPolicy::LastPerSubject).await?;
        let mut present = reader.until_caught_up();
        let mut workers = Vec::new();
        while let Some(message) = present.next().await {
            let message = message?;
            let removed = message.is_removal();
            if let (false, Ok(worker)) =
                (removed, serde_json::from_slice::<WorkerView>(&message.payload))
            {
                workers.push(worker);
            }
        }
        workers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(workers)
    }
}
