// SPDX-License-Identifier: Apache-2.0

//! Registry credentials from mounted Docker `config.json` files.
//!
//! A request only names a secret; the files stay with the worker. A file named `<secret>.json`, or
//! `config.json` in a directory named `<secret>` (as Kubernetes mounts it), holds the credentials
//! of that name. Any other file serves every request.
//!
//! Files are read again when they change: passwords of cloud registries live for hours, and
//! Kubernetes replaces a mounted secret in place. What cannot be read, such as a file that is half
//! written, leaves the credentials as they were.

mod config_file;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config_file::{ConfigFile, Entry};
use slipway_fault::chain;
use slipway_proto::Reference;
use slipway_proto::id::SecretName;

/// Why credentials are not available.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("failed to read the registry credentials {path}")]
    Read {
        /// The path of the file.
        path: String,
        /// What the file system or the parser reports.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a Docker `config.json`.
    #[error("{path} is not a Docker config.json")]
    Parse {
        /// The path of the file.
        path: String,
        /// Why. Never shown, because it may quote the file.
        source: serde_json::Error,
    },
    /// The entry of a registry is neither user and password nor a token.
    #[error(
        "the credentials for {host} in {path} are malformed: `auth` must be base64 of user:password"
    )]
    Entry {
        /// The path of the file.
        path: String,
        /// The entry.
        host: String,
    },
    /// A request names credentials that this worker does not have.
    #[error("the worker has no registry secret named `{0}`")]
    UnknownSecret(SecretName),
}

/// How a worker authenticates.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// Not at all.
    Anonymous,
    /// By user and password.
    Password { user: String, password: String },
    /// By a token that a token server exchanges for others (`identitytoken` in Docker's file).
    Identity(String),
}

/// The login for a repository.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) login: Login,
    /// Why there is none, if it is [`Login::Anonymous`]: a sentence that people read.
    pub(super) absence: String,
    /// The state of the files that it comes from.
    pub(super) generation: u64,
}

/// All credentials of a worker.
pub(super) struct Credentials {
    files: Vec<Watched>,
    /// Counts the changes of the files.
    generation: AtomicU64,
}

/// A file that is read again when it changes.
struct Watched {
    path: PathBuf,
    /// The names under which a request may ask for it.
    names: Vec<String>,
    content: Mutex<Content>,
}

struct Content {
    /// Which file was read last, whether it could be used or not.
    stamp: Option<Stamp>,
    /// Its bytes.
    bytes: Vec<u8>,
    /// The last one that could be used.
    config: Arc<ConfigFile>,
}

/// What changes when a file is written or replaced: device, inode, size, and time in seconds and
/// nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Credentials {
    pub(super) fn load(paths: &[PathBuf]) -> Result<Self, CredentialsError> {
        let files = paths.iter().map(|path| Watched::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { files, generation: AtomicU64::new(0) })
    }

    /// Returns the state of the files: it changes with their content.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Reads the files that changed. Cheap enough for each request: it asks for the state of files
    /// that are small and few.
    pub(super) fn refresh(&self) {
        self.read(Watched::refresh);
    }

    /// Reads all files, because a registry refused what they said. A file may change without
    /// another time or size.
    pub(super) fn read_again(&self) {
        self.read(|file| file.read(stamp(&file.path)));
    }

    fn read(&self, read: impl Fn(&Watched) -> bool) {
        for file in &self.files {
            if read(file) {
                tracing::info!(path = %file.path.display(), "read new registry credentials");
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Finds the login for a repository. Of several files the first that has one decides, and in a
    /// file the entry with the longest matching path, as in containers' `auth.json`. What is wrong
    /// with the entry of another registry does not matter.
    pub(super) fn find(
        &self,
        reference: &Reference,
        secret: Option<&SecretName>,
    ) -> Result<Found, CredentialsError> {
        self.refresh();
        let generation = self.generation();
        let mut files: Vec<&Watched> = self.files.iter().collect();
        if let Some(secret) = secret {
            files.retain(|file| file.names.iter().any(|name| name == secret.as_str()));
            if files.is_empty() {
                return Err(CredentialsError::UnknownSecret(secret.clone()));
            }
        }
        let registry = reference.registry();
        let mut malformed = None;
        let mut helped = None;
        for file in files {
            let shown = || file.path.display().to_string();
            match file.config().entry(reference) {
                Entry::Login(login) => {
                    return Ok(Found { login, absence: String::new(), generation });
                }
                Entry::Malformed(host) => {
                    malformed.get_or_insert(CredentialsError::Entry { path: shown(), host });
                }
                Entry::Helper(helper) => {
                    helped.get_or_insert_with(|| {
                        format!(
                            "{} leaves {registry} to the helper `{helper}`, which Slipway does not \
                            run: put a user and password, or a token, into a config.json",
                            shown()
                        )
                    });
                }
                Entry::None => {}
            }
        }
        if let Some(malformed) = malformed {
            return Err(malformed);
        }
        let absence = helped.unwrap_or_else(|| {
            format!(
                "the worker has no credentials for {registry}: add them to a Docker config.json \
                that it reads (--docker-config)"
            )
        });
        Ok(Found { login: Login::Anonymous, absence, generation })
    }
}

impl Watched {
    fn open(path: &Path) -> Result<Self, CredentialsError> {
        let shown = || path.display().to_string();
        let stamp = stamp(path);
        let bytes = std::fs::read(path)
            .map_err(|source| CredentialsError::Read { path: shown(), source })?;
        let config = ConfigFile::parse(&bytes)
            .map_err(|source| CredentialsError::Parse { path: shown(), source })?;
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
        let mut names = Vec::new();
        names.extend(text(path.file_stem()));
        names.extend(text(path.parent().and_then(Path::file_name)));
        let content = Mutex::new(Content { stamp, bytes, config: Arc::new(config) });
        Ok(Self { path: path.to_owned(), names, content })
    }

    fn config(&self) -> Arc<ConfigFile> {
        Arc::clone(&self.content().config)
    }

    /// Reads the file if it is another one than before; returns whether its content is.
    fn refresh(&self) -> bool {
        let now = stamp(&self.path);
        let is_same = self.content().stamp == now;
        !is_same && self.read(now)
    }

    /// Reads the file and returns whether it holds something new. One that cannot be used leaves
    /// everything as it was.
    fn read(&self, stamp: Option<Stamp>) -> bool {
        let read = std::fs::read(&self.path);
        let mut content = self.content();
        content.stamp = stamp;
        let kept = "registry credentials cannot be read; those from before stay in use";
        let path = self.path.display();
        match read {
            Ok(bytes) if bytes == content.bytes => false,
            Ok(bytes) => match ConfigFile::parse(&bytes) {
                Ok(config) => {
                    (content.bytes, content.config) = (bytes, Arc::new(config));
                    true
                }
                // Not why: that may quote the file.
                Err(_) => {
                    tracing::warn!(%path, "{kept}: the file is not a Docker config.json");
                    false
                }
            },
            Err(error) => {
                tracing::warn!(%path, error = chain(&error), "{kept}");
                false
            }
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the state of the file behind a path, through symbolic links: Kubernetes swaps one.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    Some((metadata.dev(), metadata.ino(), metadata.size(), seconds, nanoseconds))
}

#[cfg(test)]
mod tests;
