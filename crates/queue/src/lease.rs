// SPDX-License-Identifier: Apache-2.0

//! A lease between dispatchers: an entry that its holder renews and the bucket otherwise forgets.

use std::time::Duration;

use bytes::Bytes;

use crate::Queue;
use crate::bucket::{Bucket, BucketError};
use crate::record::RecordError;

/// How long a lease lives without renewal. The next holder takes over within this time and one
/// check.
pub const LEASE_AGE: Duration = Duration::from_secs(8);

/// A lease that one process holds at a time.
#[derive(Debug)]
pub struct Lease {
    bucket: Bucket,
    name: &'static str,
    holder: Bytes,
    revision: Option<u64>,
}

impl Queue {
    /// Returns a lease for `holder`, which is not taken yet.
    #[must_use]
    pub fn lease(&self, name: &'static str, holder: &str) -> Lease {
        let bucket = Bucket::new(self.jetstream.clone(), self.subjects.leases_bucket());
        let holder = Bytes::from(holder.to_owned());
        Lease { bucket, name, holder, revision: None }
    }
}

impl Lease {
    /// Takes or renews the lease, and returns whether it is held now, for [`LEASE_AGE`] from before
    /// this call.
    ///
    /// # Errors
    ///
    /// When the server does not answer. Then it is unknown whether the lease is held.
    pub async fn hold(&mut self) -> Result<bool, RecordError> {
        let written = match self.revision {
            Some(revision) => self.bucket.update(self.name, self.holder.clone(), revision).await,
            None => self.bucket.create(self.name, self.holder.clone()).await,
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

    /// Releases the lease, so that the next holder need not wait for its end.
    pub async fn give_up(&mut self) {
        let Some(revision) = self.revision.take() else { return };
        if let Err(error) = self.bucket.delete(self.name, revision).await {
            tracing::debug!(%error, "a lease was not given up; it will end");
        }
    }
}
