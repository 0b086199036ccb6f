// SPDX-License-Identifier: Apache-2.0

//! Why `slipway dev` cannot run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;

use slipway_service::Exit;

/// The error of a part of Slipway.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// Why `slipway dev` cannot start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// nats-server is missing.
    #[error(
        "nats-server is not installed: apt-get install nats-server (or get it from \
        https://github.com/nats-io/nats-server/releases)"
    )]
    NoNats,
    /// The given nats-server is not a program.
    #[error("{} is not a program: name a nats-server with --nats-server", .0.display())]
    NotAProgram(PathBuf),
    /// There is no home directory to keep data in.
    #[error("there is no home directory to keep data in: name a directory with --data-dir")]
    NoHome,
    /// Other machines can reach the address.
    #[error(
        "other machines can reach {0}, and there is no authentication: `slipway dev` listens on \
        loopback only"
    )]
    NotLoopback(SocketAddr),
    /// Another process listens there.
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
    /// Another `slipway dev` uses the data directory.
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
    #[error("nats-server does not become ready; its log is {}", log.display())]
    NatsSilent {
        /// Its log.
        log: PathBuf,
    },
    /// nats-server ended by itself.
    #[error("nats-server ended ({status}); its log is {}{last_lines}", log.display())]
    NatsEnded {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        last_lines: String,
    },
    /// The dispatcher does not start, or ended by itself.
    #[error("the dispatcher {what}")]
    Dispatcher {
        /// What happened to it.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<PartError>,
    },
    /// The worker does not start, or ended by itself.
    #[error("the worker {what}")]
    Worker {
        /// What happened to it.
        what: &'static str,
        /// Why.
        #[source]
        source: Option<PartError>,
    },
}

impl DevError {
    /// Returns how the process ends: it is a matter of usage where the command line or the machine
    /// lacks something.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoNats
            | Self::NotAProgram(_)
            | Self::NoHome
            | Self::NotLoopback(_)
            | Self::Taken { .. }
            | Self::Listen { .. }
            | Self::DataDir { .. }
            | Self::Locked { .. } => Exit::Usage,
            Self::StartNats { .. }
            | Self::NatsSilent { .. }
            | Self::NatsEnded { .. }
            | Self::Dispatcher { .. }
            | Self::Worker { .. } => Exit::Failed,
        }
    }
}
