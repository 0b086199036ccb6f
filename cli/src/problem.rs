// SPDX-License-Identifier: Apache-2.0

//! Why a command did nothing, as a document for programs: the server's own problem document, or one
//! of the same form for what the server has not seen.

use slipway_artifact::InspectError;
use slipway_client::ClientError;
use slipway_fault::chain;
use slipway_proto::FieldError;
use slipway_proto::api::Problem;

use crate::exit::Error;
use crate::local::LocalError;

/// Returns the problem document of an error. Its status is 0 if it is not from a server.
pub(crate) fn problem(error: &Error) -> Problem {
    match error {
        Error::Client(ClientError::Refused { problem, .. }) => (**problem).clone(),
        Error::Mistakes(mistakes) | Error::Local(LocalError::Refused(mistakes)) => {
            let title = "The build request has mistakes";
            Problem {
                errors: mistakes.clone(),
                ..own("invalid_request", title, &summary(mistakes))
            }
        }
        Error::Local(LocalError::Inspect { source: InspectError::Invalid(invalid), .. }) => {
            own(invalid.code.as_str(), "The file cannot be built", &chain(error))
        }
        Error::Client(
            ClientError::Unreachable { .. }
            | ClientError::Lost { .. }
            | ClientError::Stalled { .. },
        ) => own("unreachable", "The server cannot be reached", &chain(error)),
        Error::Client(ClientError::ReadArtifact { .. }) | Error::Input(_) => {
            own("unreadable_artifact", "The artifact cannot be read", &chain(error))
        }
        _ => own("failed", "The command failed", &chain(error)),
    }
}

fn own(code: &str, title: &str, detail: &str) -> Problem {
    Problem {
        r#type: format!("/problems/{code}"),
        title: title.to_owned(),
        status: 0,
        detail: detail.to_owned(),
        code: code.to_owned(),
        errors: Vec::new(),
    }
}

fn summary(mistakes: &[FieldError]) -> String {
    match mistakes {
        [only] => only.to_string(),
        several => format!("{} mistakes: see `errors`", several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_clients_own_has_the_form_of_a_servers() {
        let mistake = FieldError::new("image", "invalid_reference", "is none".into());
        let document = problem(&Error::Mistakes(vec![mistake.clone()]));
        assert_eq!((document.code.as_str(), document.status), ("invalid_request", 0));
        assert_eq!((document.detail.as_str(), document.errors), ("image: is none", vec![mistake]));
        let server = "http://x".to_owned();
        let away = ClientError::Unreachable { server, cause: "refused".into() };
        let document = problem(&away.into());
        assert_eq!(document.code, "unreachable");
        assert!(document.detail.contains("http://x"), "{document:?}");
    }
}
