// SPDX-License-Identifier: Apache-2.0

//! The checks of a request before anything is written, with all mistakes at once.

use std::collections::{BTreeMap, BTreeSet};

use slipway_proto::submission::Uploaded;
use slipway_proto::{BuildId, BuildRequest, Digest, FieldError, PoolName, ProjectName, Submission};
use tokio::time::Instant;

use super::{AcceptError, Acceptor};

/// A request without mistakes.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) request: BuildRequest,
    /// When the store was first asked for one of its artifacts.
    pub(super) seen: Instant,
}

/// Checks everything, and reports all mistakes at once, after those that were found `before`.
pub(super) async fn check(
    acceptor: &Acceptor,
    id: BuildId,
    project: &ProjectName,
    mut submission: Submission,
    before: Vec<FieldError>,
) -> Result<Checked, AcceptError> {
    let found = match submission.artifact() {
        Some(digest) => acceptor.artifacts.find(&acceptor.store, project, digest).await?,
        None => None,
    };
    let mut seen = found.as_ref().map_or_else(Instant::now, |found| found.since);
    let further: BTreeSet<Digest> = submission.further_artifacts().collect();
    for digest in further {
        if let Some(found) = acceptor.artifacts.find(&acceptor.store, project, digest).await? {
            seen = seen.min(found.since);
            submission = submission.with_further(digest, Uploaded::clone(&found.uploaded));
        }
    }
    let pool = submission.pool().clone();
    let known = acceptor.pools.exists(&acceptor.queue, &pool).await;
    let uploaded = found.as_ref().map(|found| &*found.uploaded);
    let checked = submission.accept(id, project.clone(), uploaded, &acceptor.catalogue);
    let mut mistakes = before;
    let request = match checked {
        Ok(request) => Some(request),
        Err(more) => {
            mistakes.extend(more);
            None
        }
    };
    refuse(mistakes, known, &pool)?;
    let request = request.expect("without mistakes there is a request");
    Ok(Checked { request, seen })
}

/// Checks again what may have changed since the first check.
pub(super) async fn check_again(
    acceptor: &Acceptor,
    request: BuildRequest,
) -> Result<Checked, AcceptError> {
    let mut mistakes = Vec::new();
    let seen = Instant::now();
    for (digest, filename) in artifacts(&request) {
        if acceptor.store.use_record(&request.project, digest).await?.is_some() {
            continue;
        }
        mistakes.push(FieldError {
            detail: format!(
                "the project no longer has the artifact {digest} (`{filename}`): upload the same \
                file again and retry, or submit a new build"
            ),
            ..gone(digest)
        });
    }
    let known = acceptor.pools.exists(&acceptor.queue, &request.pool).await;
    refuse(mistakes, known, &request.pool)?;
    Ok(Checked { request, seen })
}

/// Returns the artifacts of a request, each once, with their names.
fn artifacts(request: &BuildRequest) -> BTreeMap<Digest, &str> {
    request.artifacts().map(|artifact| (artifact.digest, artifact.filename.as_str())).collect()
}

/// The mistake of a request whose artifact was removed while it was accepted.
pub(super) fn gone(digest: Digest) -> FieldError {
    FieldError {
        field: "artifact".to_owned(),
        code: "artifact_not_found".to_owned(),
        detail: format!("the project no longer has the artifact {digest}: upload it again"),
    }
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
