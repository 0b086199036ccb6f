// SPDX-License-Identifier: Apache-2.0

//! Which repositories are known to hold which blob, so that a push asks less.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_proto::Digest;
use slipway_proto::id::SecretName;

use crate::registry::Repository;

/// A registry as one set of credentials sees it, and a blob.
type Key = (String, Option<SecretName>, Digest);

/// What is known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Known {
    repositories: Arc<Mutex<HashMap<Key, Vec<String>>>>,
}

impl Known {
    /// Opens what is known in a cache's directory.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used.
    pub fn open(_cache_dir: &Path) -> io::Result<Self> {
        Ok(Self::default())
    }

    /// Returns the repositories of the same registry, as the same secret sees it, that are known
    /// to hold a blob, the newest first.
    #[must_use]
    pub fn repositories(&self, of: &Repository, digest: Digest) -> Vec<String> {
        self.lock().get(&key(of, digest)).cloned().unwrap_or_default()
    }

    /// Remembers that a repository holds a blob.
    pub fn remember(&self, repository: &Repository, digest: Digest) {
        let name = repository.reference.repository();
        let mut known = self.lock();
        let repositories = known.entry(key(repository, digest)).or_default();
        repositories.retain(|known| known != name);
        repositories.insert(0, name.to_owned());
    }

    /// Forgets that a repository holds a blob.
    pub fn forget(&self, repository: &Repository, digest: Digest) {
        let name = repository.reference.repository();
        if let Some(repositories) = self.lock().get_mut(&key(repository, digest)) {
            repositories.retain(|known| known != name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<String>>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(repository: &Repository, digest: Digest) -> Key {
    (repository.reference.registry().to_owned(), repository.secret.clone(), digest)
}
