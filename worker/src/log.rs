// SPDX-License-Identifier: Apache-2.0

//! The log of an attempt: lines for people, sent in chunks of at most 64 KiB or 250 ms.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, Digest, ProjectName};
use slipway_queue::Queue;
use slipway_queue::log::LogChunk;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const MAX_CHUNK: usize = 64 * 1024;
const MAX_DELAY: Duration = Duration::from_millis(250);
/// How many lines may wait. Above that, lines are dropped, and the log says how many.
const MAX_LINES_WAITING: usize = 1024;
/// The pause before a chunk that was not stored is sent again.
const RESEND_PAUSE: Duration = Duration::from_millis(200);
/// How long the end of an attempt waits until its log is stored. As long as a lease: after that
/// another worker has the build.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(15);

/// Writes the log of one attempt.
#[derive(Debug)]
pub(crate) struct BuildLog {
    lines: mpsc::Sender<String>,
    sender: JoinHandle<()>,
    dropped: std::sync::atomic::AtomicU64,
}

impl BuildLog {
    /// Starts the log of an attempt.
    #[must_use]
    pub(crate) fn start(queue: Queue, project: ProjectName, build: BuildId, epoch: Epoch) -> Self {
        let (lines, waiting) = mpsc::channel(MAX_LINES_WAITING);
        let chunks = Chunks { queue, project, build, epoch, number: 0, whole: Sha256::new() };
        let sender = tokio::spawn(chunks.send_all(waiting));
        Self { lines, sender, dropped: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Appends a line. Never waits, because a log must not delay its build.
    pub(crate) fn line(&self, line: &str) {
        use std::sync::atomic::Ordering::Relaxed;
        if self.lines.try_send(one_line(line)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Ends the log and waits until it is stored, for a limited time.
    pub(crate) async fn finish(self, last: &str) {
        let dropped = self.dropped.into_inner();
        if dropped > 0 {
            let note = format!("({dropped} lines of this log were lost)");
            let _receiver_gone = self.lines.send(one_line(&note)).await;
        }
        let _receiver_gone = self.lines.send(one_line(last)).await;
        drop(self.lines);
        if tokio::time::timeout(FLUSH_TIMEOUT, self.sender).await.is_err() {
            tracing::warn!("the end of a build's log was not acknowledged in time");
        }
    }
}

struct Chunks {
    queue: Queue,
    project: ProjectName,
    build: BuildId,
    epoch: Epoch,
    number: u64,
    whole: Sha256,
}

impl Chunks {
    /// Sends chunk by chunk, each when the one before it is stored. So a log has no holes and its
    /// chunks are in order, whatever the connection does.
    async fn send_all(mut self, mut waiting: mpsc::Receiver<String>) {
        // The first line is sent alone and at once. It names the worker that took the build, which
        // a reader needs if the attempt ends silently.
        let mut more = match waiting.recv().await {
            Some(line) => {
                self.send(line.into_bytes(), false).await;
                true
            }
            None => false,
        };
        while more {
            let mut chunk = Vec::new();
            // Lines that follow within the delay go into the same chunk.
            let mut deadline = None;
            while chunk.len() < MAX_CHUNK {
                let line = match deadline {
                    None => waiting.recv().await,
                    Some(deadline) => {
                        match tokio::time::timeout_at(deadline, waiting.recv()).await {
                            Ok(line) => line,
                            Err(_elapsed) => break,
                        }
                    }
                };
                let Some(line) = line else {
                    more = false;
                    break;
                };
                chunk.extend_from_slice(line.as_bytes());
                deadline.get_or_insert_with(|| tokio::time::Instant::now() + MAX_DELAY);
            }
            self.send(chunk, !more).await;
        }
    }

    async fn send(&mut self, chunk: Vec<u8>, last: bool) {
        self.whole.update(&chunk);
        let whole = last.then(|| Digest::from(self.whole.clone()));
        let chunk = LogChunk {
            epoch: self.epoch,
            number: self.number,
            text: Bytes::from(chunk),
            whole: whole.as_ref(),
        };
        self.number += 1;
        loop {
            let stored = self.queue.publish_log(&self.project, self.build, chunk.clone()).await;
            let Err(error) = stored else { return };
            tracing::debug!(build = %self.build, %error, "sending a chunk of a log again");
            tokio::time::sleep(RESEND_PAUSE).await;
        }
    }
}

/// Makes one line of a text, even if a registry's message has several.
fn one_line(text: &str) -> String {
    let mut line = text.replace(['\r', '\n'], " ");
    line.push('\n');
    line
}
