// SPDX-License-Identifier: Apache-2.0

//! Why a command could not do what it was asked for, and how the process ends then.

use slipway_proto::FieldError;
use slipway_service::Exit;

use crate::commands::batch::error::BatchError;
use crate::dev::DevError;
use crate::input::InputError;
use crate::local::LocalError;
use crate::platforms::PlatformsError;
use slipway_client::ClientError;

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dispatcher refuses or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The request has mistakes, which show without the server.
    #[error("the build request has mistakes:{}", lines(.0))]
    Mistakes(Vec<FieldError>),
    /// The artifact cannot be taken from where it should come.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The files of further platforms cannot be used.
    #[error(transparent)]
    Platforms(#[from] PlatformsError),
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
    /// Returns how the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => client_exit(error),
            Self::Mistakes(_) => Exit::Failed,
            Self::Batch(_) | Self::Input(_) | Self::Platforms(_) => Exit::Usage,
            Self::Local(error) => error.exit(),
            Self::Dev(error) => error.exit(),
        }
    }
}

/// Writes mistakes on lines of their own.
pub(crate) fn lines(mistakes: &[FieldError]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Refused { .. } | ClientError::Unexpected { .. } | ClientError::Setup(_) => {
            Exit::Failed
        }
        ClientError::ReadArtifact { .. } | ClientError::InvalidToken | ClientError::InvalidKey => {
            Exit::Usage
        }
        ClientError::Unreachable { .. }
        | ClientError::Lost { .. }
        | ClientError::Stalled { .. } => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_is_told_from_one_that_is_away() {
        let server = String::new();
        let busy = ClientError::Unexpected { server: server.clone(), status: 503, source: None };
        assert_eq!(Error::from(busy).exit(), Exit::Failed);
        let away = ClientError::Unreachable { server, cause: String::new() };
        assert_eq!(Error::from(away).exit(), Exit::Unreachable);
    }
}
