// SPDX-License-Identifier: Apache-2.0

//! Checks that the server still stores messages.
//!
//! The server's own health check does not show it: nats-server 2.9.10 stays healthy on a full disk
//! and lets publishers hang.

use async_nats::jetstream::message::PublishMessage;

use slipway_proto::subject::bucket_subject;

use crate::Queue;
use crate::publish::PublishError;

/// More than a page: on a full disk there is still room in the last page of a file, which would
/// take a few bytes for minutes.
const PROBE: [u8; 4200] = [b'.'; 4200];

/// The key of the bucket of workers that is written.
const PROBE_KEY: &str = "_probe";

impl Queue {
    /// Writes somewhat more than a page and waits until it is stored. It goes to the bucket of
    /// workers, which forgets it after 15 s and whose readers skip everything else.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn probe_write(&self) -> Result<(), PublishError> {
        let subject = bucket_subject(&self.subjects.workers_bucket(), PROBE_KEY);
        let message = PublishMessage::build().payload(bytes::Bytes::from_static(&PROBE));
        self.confirmed(subject, message).await
    }
}
