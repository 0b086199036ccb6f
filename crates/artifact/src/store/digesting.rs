// SPDX-License-Identifier: Apache-2.0

//! Bytes that are digested, and written to a file, off the async threads.

use std::fs::File;
use std::io::{self, Write as _};
use std::mem;

use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;
use tokio::task::{JoinHandle, spawn_blocking};

use super::StoreError;

/// How many bytes pass to the thread at once. Smaller blocks spend their time in passing, larger
/// ones only take memory: a digester holds two blocks, one that fills and one that is digested.
const DIGESTED_AT_ONCE: usize = 1 << 20;

/// Digests bytes, and writes them to a file if it has one, while more bytes arrive.
///
/// Pieces are copied, which costs little beside digesting them. If they were kept, each piece of a
/// client that sends one byte at a time would hold a whole buffer.
pub(super) struct Digester {
    work: Work,
    block: Vec<u8>,
}

/// What passes between the async side and the working thread.
struct Progress {
    hasher: Sha256,
    file: Option<File>,
    /// The block that was digested last, to be filled again.
    spare: Vec<u8>,
}

enum Work {
    Idle(Progress),
    Busy(JoinHandle<io::Result<Progress>>),
    /// An earlier block failed; there is no digest any more.
    Failed,
}

const ACTION: &str = "write an artifact";

impl Digester {
    pub(super) fn new(file: Option<File>) -> Self {
        let progress = Progress { hasher: Sha256::new(), file, spare: Vec::new() };
        Self { work: Work::Idle(progress), block: Vec::new() }
    }

    /// Takes a piece. A failure may show only with a later one.
    pub(super) async fn write(&mut self, mut piece: &[u8]) -> Result<(), StoreError> {
        loop {
            let (now, later) = piece.split_at(piece.len().min(DIGESTED_AT_ONCE - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() < DIGESTED_AT_ONCE {
                return Ok(());
            }
            self.hand_over().await?;
            piece = later;
        }
    }

    /// Waits until everything is written, and returns the digest and the file.
    pub(super) async fn finish(mut self) -> Result<(Digest, Option<File>), StoreError> {
        self.hand_over().await?;
        let Progress { hasher, file, .. } = self.settle().await?;
        Ok((Digest::from(hasher), file))
    }

    async fn hand_over(&mut self) -> Result<(), StoreError> {
        let mut progress = self.settle().await?;
        let block = mem::replace(&mut self.block, mem::take(&mut progress.spare));
        self.work = Work::Busy(spawn_blocking(move || {
            progress.hasher.update(&block);
            if let Some(file) = &mut progress.file {
                file.write_all(&block)?;
            }
            progress.spare = block;
            progress.spare.clear();
            Ok(progress)
        }));
        Ok(())
    }

    /// Waits for the block in progress. Leaves [`Work::Failed`], which the caller replaces.
    async fn settle(&mut self) -> Result<Progress, StoreError> {
        if let Work::Busy(handle) = &mut self.work {
            // Awaited in place, so that a caller that gives up here loses nothing.
            let result = handle.await;
            self.work = Work::Failed;
            let progress = result.map_err(StoreError::of_task)?;
            return progress.map_err(|error| StoreError::of_io(ACTION, error));
        }
        match mem::replace(&mut self.work, Work::Failed) {
            Work::Idle(progress) => Ok(progress),
            _ => Err(StoreError::unavailable(ACTION, "an earlier write failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[tokio::test]
    async fn all_pieces_are_digested_and_written_in_order() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mut digester = Digester::new(Some(file));
        let mut expected = Vec::new();
        for (length, fill) in (0..40usize).map(|n| n * n * 1501).zip(0u8..) {
            let piece = vec![fill; length];
            expected.extend_from_slice(&piece);
            digester.write(&piece).await.expect("it is written");
        }
        let (digest, file) = digester.finish().await.expect("it is finished");
        assert_eq!(digest, Digest::of(&expected));
        let (mut file, mut content) = (file.expect("the file"), Vec::new());
        file.rewind().expect("rewound");
        file.read_to_end(&mut content).expect("read");
        assert!(content == expected);
    }

    #[tokio::test]
    async fn a_failed_write_shows_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("read-only");
        std::fs::write(&path, b"").expect("written");
        let mut digester = Digester::new(Some(File::open(&path).expect("open for reading")));
        let mut failures = 0;
        for _ in 0..3 {
            failures += usize::from(digester.write(&[0; DIGESTED_AT_ONCE]).await.is_err());
        }
        assert_eq!(failures, 2, "the first is handed over, the second meets its failure");
        assert!(digester.finish().await.expect_err("it failed").is_transient());
    }
}
