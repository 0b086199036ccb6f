// SPDX-License-Identifier: Apache-2.0

//! A build with a supersede key (say, a branch) calls off the older builds of its project with that
//! key that are not finished.
//!
//! It happens behind the answer to the client. Older builds are found in the projection, so it
//! waits until the projection has seen the new build: then it has seen all that were accepted
//! before. What a crash leaves undone, the reconciler does.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use slipway_fault::chain;
use slipway_proto::{Build, BuildId, ProjectName};

use crate::app::App;
use crate::builds::cancel::{CancelError, Which, cancel};

/// How long the projection may take to see the new build; then the reconciler must do.
const FOLDED_WITHIN: Duration = Duration::from_secs(30);

/// How many builds are called off at once.
const CONCURRENCY: usize = 8;

/// Calls older builds off, once the projection has folded the event at `sequence`.
pub(crate) fn supersede_later(app: &Arc<App>, build: &Build, sequence: u64) {
    let Some(key) = build.request.supersede_key.clone() else { return };
    let (project, id, order) = (build.request.project.clone(), build.request.build, build.order);
    let (app, tasks) = (Arc::clone(app), app.tasks.clone());
    tasks.spawn(async move {
        let seen = tokio::time::timeout(FOLDED_WITHIN, app.feed.folded(sequence));
        let Some(Ok(())) = app.stop.run_until_cancelled(seen).await else { return };
        let older = match app.projection.superseded(&project, &key, order).await {
            Ok(older) => older,
            Err(error) => {
                let error = chain(&error);
                return tracing::warn!(build = %id, error, "older builds are superseded later");
            }
        };
        futures::stream::iter(older)
            .for_each_concurrent(CONCURRENCY, |old| {
                let (app, project) = (&app, &project);
                async move {
                    let _reported = supersede(app, project, old, id).await;
                }
            })
            .await;
    });
}

/// Calls one older build off; returns whether it was unfinished until now.
pub(crate) async fn supersede(
    app: &App,
    project: &ProjectName,
    old: BuildId,
    by: BuildId,
) -> Result<bool, CancelError> {
    let message = format!("superseded by build {by}");
    match cancel(app, project, old, &message, Which::Unfinished).await {
        Ok(cancelled) => {
            if cancelled.is_new() {
                tracing::info!(build = %old, %by, "superseded");
            }
            Ok(cancelled.is_new())
        }
        // Its image comes a moment before the newer one, as if there were no key.
        Err(CancelError::Publishing | CancelError::Finished(_) | CancelError::NotFound(_)) => {
            Ok(false)
        }
        Err(error) => {
            tracing::warn!(build = %old, %by, error = chain(&error), "superseded later");
            Err(error)
        }
    }
}
