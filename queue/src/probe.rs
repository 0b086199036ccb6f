// SPDX-License-Identifier: Apache-2.0

//! Whether the server still stores what it is sent.
//!
//! Its own health check does not say: nats-server 2.9.10 stays healthy on a full disk and lets
//! publishers hang.

use async_nats::jetstream::message::PublishMessage;

use crate::Queue;

impl Queue {
    /// Writes a few bytes and waits until they are stored. They go to the bucket of workers, which
    /// forgets them after 15 s and whose readers skip what is no worker.
    ///
    /// # Errors
    ///
    /// When the server does not acknowledge.
    pub async fn probe_write(&self) -> Result<(), async_nats::Error> {
        let subject = format!("$KV.{}._probe", self.subjects.workers_bucket());
        let message = PublishMessage::build().payload("probe".into());
        self.jetstream.send_publish(subject, message).await?.await?;
        Ok(())
    }
}
