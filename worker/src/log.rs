// SPDX-License-Identifier: Apache-2.0

//! The log of an attempt: lines for people, sent in chunks of at most 64 KiB or 250 ms.

use std::time::Duration;

use bytes::Bytes;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, ProjectName};
use slipway_queue::Queue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const MAX_CHUNK: usize = 64 * 1024;
const MAX_DELAY: Duration = Duration::from_millis(250);
/// How many lines may wait; beyond that lines are dropped, and the log says how many.
const MAX_WAITING: usize = 1024;
/// How long the end of an attempt waits for its log to be stored.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

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
        let (lines, waiting) = mpsc::channel(MAX_WAITING);
        let chunks = Chunks { queue, project, build, epoch, number: 0, sent: Vec::new() };
        let sender = tokio::spawn(chunks.send_all(waiting));
        Self { lines, sender, dropped: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Appends a line. Never waits: a build is not held up by its log.
    pub(crate) fn line(&self, line: &str) {
        use std::sync::atomic::Ordering::Relaxed;
        // One line of the log, whatever a registry put into its message.
        let line = line.replace(['\r', '\n'], " ");
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Ends the log and waits until it is stored, within bounds.
    pub(crate) async fn finish(self, last: &str) {
        let dropped = self.dropped.into_inner();
        if dropped > 0 {
            let note = format!("({dropped} lines of this log were lost)");
            let _receiver_gone = self.lines.send(note).await;
        }
        let _receiver_gone = self.lines.send(last.replace(['\r', '\n'], " ")).await;
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
    sent: Vec<async_nats::jetstream::context::PublishAckFuture>,
}

impl Chunks {
    async fn send_all(mut self, mut waiting: mpsc::Receiver<String>) {
        let mut chunk = Vec::new();
        // The first line goes alone and at once: it says who took the build, which is what a
        // reader wants to know of an attempt that ends without a word.
        if let Some(line) = waiting.recv().await {
            append(&mut chunk, &line);
            self.send(&mut chunk).await;
        }
        while let Some(line) = waiting.recv().await {
            append(&mut chunk, &line);
            // What follows within the delay travels in the same chunk.
            let deadline = tokio::time::Instant::now() + MAX_DELAY;
            while chunk.len() < MAX_CHUNK {
                match tokio::time::timeout_at(deadline, waiting.recv()).await {
                    Ok(Some(line)) => append(&mut chunk, &line),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(&mut chunk).await;
        }
        for acknowledgement in self.sent {
            if let Err(error) = acknowledgement.await {
                tracing::warn!(build = %self.build, %error, "a chunk of a build's log was not stored");
            }
        }
    }

    async fn send(&mut self, chunk: &mut Vec<u8>) {
        let text = Bytes::from(std::mem::take(chunk));
        let number = self.number;
        self.number += 1;
        match self.queue.send_log(&self.project, self.build, self.epoch, number, text).await {
            Ok(acknowledgement) => self.sent.push(acknowledgement),
            Err(error) => {
                tracing::warn!(build = %self.build, %error, "a chunk of a build's log was not sent");
            }
        }
    }
}

fn append(chunk: &mut Vec<u8>, line: &str) {
    chunk.extend_from_slice(line.as_bytes());
    chunk.push(b'\n');
}
