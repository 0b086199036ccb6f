// SPDX-License-Identifier: Apache-2.0

//! How a program ends: the exit codes that scripts and service managers rely on, the same in all
//! programs.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what it was asked for; a graceful stop after a signal is that too.
    Ok,
    /// 1: it did not; a build failed, or the server refused the request.
    Failed,
    /// 2: the command line or the configuration is wrong, and nothing was tried.
    Usage,
    /// 3: the server cannot be reached. Only clients end so.
    Unreachable,
    /// 130: a signal ended it before it was done.
    Interrupted,
}

impl Exit {
    /// Returns the exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
