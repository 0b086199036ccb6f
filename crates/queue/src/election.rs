// SPDX-License-Identifier: Apache-2.0

//! The election of a leader among dispatchers: an entry that the leader renews and the bucket
//! otherwise forgets.
//!
//! It is not a build's lease, which the server keeps for a worker.

use std::time::Duration;

use bytes::Bytes;

use crate::Queue;
use crate::bucket::{Bucket, BucketError};
use crate::record::RecordError;

/// How long a leadership lasts without renewal. The next leader takes over within this time and one
/// of its tries.
pub const LEADERSHIP_AGE: Duration = Duration::from_secs(8);

/// A candidate for a leadership that one process at a time holds.
#[derive(Debug)]
pub struct LeaderElection {
    bucket: Bucket,
    name: &'static str,
    candidate: Bytes,
    /// The revision of the entry, while this candidate is the leader.
    revision: Option<u64>,
}

impl Queue {
    /// Enters a candidate in an election. It does not lead yet.
    #[must_use]
    pub fn election(&self, name: &'static str, candidate: &str) -> LeaderElection {
        let bucket = Bucket::new(self.jetstream.clone(), self.subjects.leases_bucket());
        let candidate = Bytes::from(candidate.to_owned());
        LeaderElection { bucket, name, candidate, revision: None }
    }
}

impl LeaderElection {
    /// Takes or renews the leadership, and returns whether this candidate leads now, for
    /// [`LEADERSHIP_AGE`] from before this call.
    ///
    /// # Errors
    ///
    /// When the server does not answer. Then it is unknown who leads.
    pub async fn lead(&mut self) -> Result<bool, RecordError> {
        let written = match self.revision {
            Some(revision) => self.bucket.update(self.name, self.candidate.clone(), revision).await,
            None => self.bucket.create(self.name, self.candidate.clone()).await,
        };
        match written {
            Ok(revision) => {
                self.revision = Some(revision);
                Ok(true)
            }
            Err(BucketError::Conflict) => {
                self.revision = None;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives up the leadership, so that the next leader need not wait for its end.
    pub async fn resign(&mut self) {
        let Some(revision) = self.revision.take() else { return };
        if let Err(error) = self.bucket.delete(self.name, revision).await {
            tracing::debug!(%error, "a leadership was not given up; it will end");
        }
    }
}
