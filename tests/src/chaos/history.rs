// SPDX-License-Identifier: Apache-2.0

//! What happened, as an append-only file of JSON lines.
//!
//! Clients, the injector of faults and the observers write what they saw, when they saw it; nothing
//! is ever changed. The checker knows nothing but this file, so a run that failed can be checked
//! again, and a history made by hand can show that the checker is able to fail. Documents of the
//! product are kept as they were on the wire: a mistake in the types that dispatcher and worker
//! share cannot hide itself here.

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
    /// What was seen.
    #[serde(flatten)]
    pub what: What,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The run began.
    Began {
        /// The seed.
        seed: u64,
        /// The length in seconds.
        seconds: u64,
        /// The version of the NATS servers, as they say.
        server: String,
        /// How many there are.
        nodes: usize,
    },
    /// A client asks a dispatcher.
    Asked {
        /// Which question, to find its answer.
        call: u64,
        /// The dispatcher.
        dispatcher: usize,
        /// What is asked.
        #[serde(flatten)]
        ask: Ask,
    },
    /// A question was answered, or will not be.
    Answered {
        /// Which question.
        call: u64,
        /// The status; `None` when the connection broke or the client's patience ended.
        status: Option<u16>,
        /// The document, or the error's text.
        body: Value,
    },
    /// A fault begins.
    FaultBegun {
        /// Which fault.
        number: usize,
        /// The fault.
        #[serde(flatten)]
        fault: Fault,
    },
    /// Something about a fault.
    FaultNote {
        /// Which fault.
        number: usize,
        /// What happened.
        note: String,
    },
    /// A fault is over, and what it broke is healed.
    FaultEnded {
        /// Which fault.
        number: usize,
    },
    /// A process ended that nobody had killed.
    Exited {
        /// The process.
        process: String,
        /// Its exit status.
        how: String,
    },
    /// The load is over and everything is healed.
    Healed,
    /// The system came to rest, or was given up on.
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
    /// What a worker wrote about the end of a build.
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
    /// The log of a build as the API gives it at the end.
    HttpLog {
        /// The build.
        build: String,
        /// The log; `None` if it could not be read.
        text: Option<String>,
    },
    /// A build as the API shows it at the end.
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
        /// Where it points; `None` if it is not there.
        digest: Option<String>,
    },
    /// A manifest of the registry at the end.
    Manifest {
        /// The repository.
        repository: String,
        /// Its digest.
        digest: String,
        /// Whether it is there.
        present: bool,
        /// Blobs that it names and that are not there.
        missing: Vec<String>,
    },
    /// The queue at the end.
    Queue {
        /// How many messages stand in its stream.
        messages: u64,
        /// How many of them were delivered and not acknowledged, by consumer.
        ack_pending: Vec<(String, u64)>,
    },
    /// What a process takes.
    Usage {
        /// The process.
        process: String,
        /// Its resident memory in bytes.
        resident: u64,
        /// How many files it has open.
        files: u64,
    },
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// To build something.
    Submit {
        /// The project.
        project: String,
        /// The idempotency key.
        key: String,
        /// The request.
        request: Value,
    },
    /// To cancel a build.
    Cancel {
        /// The project.
        project: String,
        /// The build.
        build: String,
    },
    /// To cancel all queued builds of a project.
    CancelAll {
        /// The project.
        project: String,
    },
    /// To build again what stands in the dead letters.
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
    /// Whether it was read after the system came to rest, so that it is the last revision.
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
    /// Its number in that attempt, from 0.
    pub number: u64,
    /// In the last chunk of an attempt: the digest of all of them.
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

    /// Appends what was seen now.
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
/// When the file cannot be read, or is no history.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        entries.push(serde_json::from_str(&line?)?);
    }
    Ok(entries)
}
