// SPDX-License-Identifier: Apache-2.0

//! How a command ends: the exit codes that scripts rely on, decided in one place.

use crate::commands::BatchError;
use crate::dev::DevError;
use crate::local::LocalError;
use slipway_client::ClientError;

/// How a command ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success, also of a build it waited for.
    Success,
    /// The build it waited for did not succeed.
    BuildFailed,
    /// The server refused a part of the request.
    Refused,
    /// Interrupted while it waited: Ctrl-C.
    Interrupted,
    /// Terminated while it waited: SIGTERM.
    Terminated,
}

impl Exit {
    /// Returns the exit code; 128 and the signal's number for the signals, as shells do.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::BuildFailed | Self::Refused => 1,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dispatcher refuses or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A build without a server cannot be started.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The file of a batch cannot be used.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// `slipway dev` cannot run.
    #[error(transparent)]
    Dev(#[from] DevError),
}

impl Error {
    /// Returns the exit code: 1 refused, 2 usage, 3 server unreachable.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Batch(_) => 2,
            Self::Local(error) => error.exit_code(),
            Self::Dev(error) => error.exit_code(),
        }
    }
}
