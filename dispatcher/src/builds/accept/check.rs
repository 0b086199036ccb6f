// SPDX-License-Identifier: Apache-2.0

//! The checks of a request before anything is written, with all mistakes at once.

use std::collections::BTreeSet;

use slipway_proto::submission::Uploaded;
use slipway_proto::{BuildId, BuildRequest, Digest, FieldError, PoolName, ProjectName, Submission};

use super::{AcceptError, Acceptor};

/// Checks everything, and reports all mistakes at once, after those that were found `before`.
pub(super) async fn check(
    acceptor: &Acceptor,
    id: BuildId,
    project: &ProjectName,
    mut submission: Submission,
    before: Vec<FieldError>,
) -> Result<BuildRequest, AcceptError> {
    let uploaded = match submission.artifact() {
        Some(digest) => acceptor.artifacts.find(&acceptor.store, project, digest).await?,
        None => None,
    };
    let further: BTreeSet<Digest> = submission.further_artifacts().collect();
    for digest in further {
        if let Some(found) = acceptor.artifacts.find(&acceptor.store, project, digest).await? {
            submission = submission.with_further(digest, Uploaded::clone(&found));
        }
    }
    let pool = submission.pool().clone();
    let known = acceptor.pools.exists(&acceptor.queue, &pool).await;
    let checked = submission.accept(id, project.clone(), uploaded.as_deref(), &acceptor.catalogue);
    let mut mistakes = before;
    let request = match checked {
        Ok(request) => Some(request),
        Err(more) => {
            mistakes.extend(more);
            None
        }
    };
    refuse(mistakes, known, &pool)?;
    Ok(request.expect("without mistakes there is a request"))
}

/// Checks again what may have changed since the first check.
pub(super) async fn check_again(
    acceptor: &Acceptor,
    request: &BuildRequest,
) -> Result<(), AcceptError> {
    let mut mistakes = Vec::new();
    let digests: BTreeSet<Digest> = request.artifacts().map(|artifact| artifact.digest).collect();
    for digest in digests {
        if acceptor.store.record(&request.project, digest).await?.is_some() {
            continue;
        }
        mistakes.push(FieldError {
            field: "artifact".to_owned(),
            code: "artifact_not_found".to_owned(),
            detail: format!("the project no longer has the artifact {digest}: upload it again"),
        });
    }
    let known = acceptor.pools.exists(&acceptor.queue, &request.pool).await;
    refuse(mistakes, known, &request.pool)
}

/// Refuses a request with mistakes, to which an unknown pool adds one. `known` says whether the
/// pool exists.
fn refuse(
    mut mistakes: Vec<FieldError>,
    known: Option<bool>,
    pool: &PoolName,
) -> Result<(), AcceptError> {
    if known == Some(false) {
        mistakes.push(FieldError {
            field: "pool".to_owned(),
            code: "pool_not_found".to_owned(),
            detail: format!(
                "no worker has ever served the pool `{pool}`: start one with --pool {pool}, or \
                leave the field out"
            ),
        });
    }
    if !mistakes.is_empty() {
        return Err(AcceptError::Invalid(mistakes));
    }
    if known.is_none() {
        return Err(AcceptError::Unavailable("the pools are not known".into()));
    }
    Ok(())
}
