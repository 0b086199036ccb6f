// SPDX-License-Identifier: Apache-2.0

//! The history of a run, as an append-only file of JSON lines.
//!
//! Clients, the fault injector and the observers write what they saw, when they saw it. Nothing is
//! ever changed. The checker knows only this file, so a failed run can be checked again, and a
//! history written by hand can show that the checker is able to fail. The product's documents are
//! kept as they were on the wire, so that a mistake in the types that dispatcher and worker share
//! cannot hide itself.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use slipway_proto::Timestamp;

use super::plan::Fault;
use crate::faulty_registry::ManifestWrite;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: Timestamp,
    /// The observation.
    #[serde(flatten)]
    pub what: What,
}

/// The observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The run began.
    Began {
        /// The seed.
        seed: u64,
        /// The length in seconds.
        seconds: u64,
        /// The version that the NATS servers report.
        server: String,
        /// How many NATS servers there are.
        nodes: usize,
    },
    /// A client sends a request to a dispatcher.
    Asked {
        /// The number of the request, to find its answer.
        call: u64,
        /// The dispatcher.
        dispatcher: usize,
        /// The request.
        #[serde(flatten)]
        ask: Ask,
    },
    /// A request was answered, or will not be.
    Answered {
        /// The number of the request.
        call: u64,
        /// The status; `None` if the connection broke or the client gave up.
        status: Option<u16>,
        /// The document, or the error's text.
        body: Value,
    },
    /// A fault begins.
    FaultBegun {
        /// The number of the fault.
        number: usize,
        /// The fault.
        #[serde(flatten)]
        fault: Fault,
    },
    /// A remark about a fault.
    FaultNote {
        /// The number of the fault.
        number: usize,
        /// What happened.
        note: String,
    },
    /// A fault is over and healed.
    FaultEnded {
        /// The number of the fault.
        number: usize,
    },
    /// A process ended that the suite had not killed.
    Exited {
        /// The process.
        process: String,
        /// Its exit status.
        how: String,
    },
    /// The load is over and everything is healed.
    Healed,
    /// The system came to rest, or did not in time.
    Rested {
        /// Whether it came to rest in time.
        in_time: bool,
    },
    /// A message of the event stream.
    Event(EventSeen),
    /// A revision of a build's record.
    Record(RecordSeen),
    /// A chunk of a log.
    Chunk(ChunkSeen),
    /// A manifest was written to the registry.
    Wrote(ManifestWrite),
    /// A worker's log line about the end of a build.
    WorkerLine {
        /// The worker.
        worker: String,
        /// When it wrote that.
        time: Timestamp,
        /// The line.
        message: String,
        /// The build.
        build: String,
    },
    /// The log of a build from the API at the end.
    HttpLog {
        /// The build.
        build: String,
        /// The log; `None` if it could not be read.
        text: Option<String>,
    },
    /// A build from the API at the end.
    View {
        /// The build.
        build: String,
        /// The status of the answer.
        status: Option<u16>,
        /// The document.
        view: Value,
    },
    /// A tag of the registry at the end.
    Tag {
        /// The reference.
        reference: String,
        /// The digest it points at; `None` if it does not exist.
        digest: Option<String>,
    },
    /// A manifest of the registry at the end.
    Manifest {
        /// The repository.
        repository: String,
        /// Its digest.
        digest: String,
        /// Whether it exists.
        present: bool,
        /// Blobs that it names and that do not exist.
        missing: Vec<String>,
    },
    /// The queue at the end.
    Queue {
        /// The number of messages in its stream.
        messages: u64,
        /// How many of them were delivered and not acknowledged, by consumer.
        ack_pending: Vec<(String, u64)>,
    },
    /// The resources of a process.
    Usage {
        /// The process.
        process: String,
        /// Its resident memory in bytes.
        resident: u64,
        /// The number of its open files.
        files: u64,
    },
}

/// A client's request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Submit a build.
    Submit {
        /// The project.
        project: String,
        /// The idempotency key.
        key: String,
        /// The request.
        request: Value,
    },
    /// Cancel a build.
    Cancel {
        /// The project.
        project: String,
        /// The build.
        build: String,
    },
    /// Cancel all queued builds of a project.
    CancelAll {
        /// The project.
        project: String,
    },
    /// Replay a dead letter.
    Replay {
        /// The project.
        project: String,
        /// The build.
        build: String,
    },
}

/// A message of the event stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventSeen {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// The document.
    pub event: Value,
}

/// A revision of a build's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordSeen {
    /// Its revision: the sequence in the bucket's stream.
    pub revision: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// The build.
    pub build: String,
    /// The document; `None` when the record was deleted.
    pub record: Option<Value>,
    /// Whether it was read after the system came to rest, and so is the last revision.
    pub last: bool,
}

/// A chunk of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkSeen {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// The build.
    pub build: String,
    /// The claim whose attempt wrote it.
    pub epoch: u64,
    /// Its number within the attempt, from 0.
    pub number: u64,
    /// In the last chunk of an attempt: the digest of the whole log.
    pub digest: Option<String>,
    /// Its text.
    pub text: String,
}

/// Appends to the history. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    file: Arc<Mutex<File>>,
}

impl History {
    /// Makes the file.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn create(path: &Path) -> Self {
        let file = File::create(path).expect("the history can be made");
        Self { file: Arc::new(Mutex::new(file)) }
    }

    /// Appends an observation with the current time.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn note(&self, what: What) {
        let entry = Entry { at: Timestamp::now(), what };
        let mut line = serde_json::to_vec(&entry).expect("an entry is JSON");
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).expect("the history can be written");
    }
}

/// Reads a history.
///
/// # Errors
///
/// When the file cannot be read, or is not a history.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        entries.push(serde_json::from_str(&line?)?);
    }
    Ok(entries)
}
