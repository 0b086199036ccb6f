// SPDX-License-Identifier: Apache-2.0

//! Why `slipway dev` does not run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;

/// What a part of Slipway ran into.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// Why `slipway dev` cannot start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// nats-server is missing.
    #[error(
        "nats-server is not installed: apt-get install nats-server (or get it from https://github.com/nats-io/nats-server/releases)"
    )]
    NoNats,
    /// The named nats-server is not one.
    #[error("{} is not a program: name a nats-server with --nats-server", .0.display())]
    NotAProgram(PathBuf),
    /// There is nowhere to keep data.
    #[error("there is no home directory to keep data in: name a directory with --data-dir")]
    NoHome,
    /// The address is not one of this machine alone.
    #[error(
        "{0} can be reached by other machines, and nothing would ask them who they are: `slipway dev` listens on loopback only"
    )]
    NotLoopback(SocketAddr),
    /// Somebody else listens there.
    #[error("{address} is taken: {hint}")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// What to do.
        hint: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another one uses the data directory.
    #[error(
        "another slipway dev (process {holder}) uses {}: stop it, or choose another directory with --data-dir", path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other one's process id.
        holder: String,
    },
    /// nats-server does not start.
    #[error("cannot start nats-server: failed to {what}")]
    StartNats {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// nats-server starts, but does not listen.
    #[error("nats-server does not get ready; its log is {}", log.display())]
    NatsSilent {
        /// Its log.
        log: PathBuf,
    },
    /// nats-server ended although nobody told it to.
    #[error("nats-server ended ({status}); its log is {}{last_lines}", log.display())]
    NatsEnded {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The end of that.
        last_lines: String,
    },
    /// The dispatcher does not start, or ended although nobody told it to.
    #[error("the dispatcher {what}")]
    Dispatcher {
        /// What it did.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<PartError>,
    },
    /// The worker does not start, or ended although nobody told it to.
    #[error("the worker {what}")]
    Worker {
        /// What it did.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<PartError>,
    },
}

impl DevError {
    /// Returns the exit code: 2 for what the command line or the machine lacks, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoNats
            | Self::NotAProgram(_)
            | Self::NoHome
            | Self::NotLoopback(_)
            | Self::Taken { .. }
            | Self::Listen { .. }
            | Self::DataDir { .. }
            | Self::Locked { .. } => 2,
            Self::StartNats { .. }
            | Self::NatsSilent { .. }
            | Self::NatsEnded { .. }
            | Self::Dispatcher { .. }
            | Self::Worker { .. } => 1,
        }
    }
}
