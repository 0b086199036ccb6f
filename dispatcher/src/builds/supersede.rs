// SPDX-License-Identifier: Apache-2.0

//! A build with a supersede key (say, a branch) cancels the older unfinished builds of its project
//! with that key.
//!
//! This happens after the client was answered. Older builds are found in the projection, so it
//! waits until the projection has seen the new build: then it has seen all that were accepted
//! before. What a crash leaves undone, the reconciler does.

use std::time::Duration;

use futures::StreamExt as _;
use slipway_fault::chain;
use slipway_proto::Build;
use slipway_queue::protocol::cancel::supersede;

use super::announce::Announcer;

/// How long the projection may take to see the new build. After that it is left to the reconciler.
const NEW_BUILD_FOLDED_WITHIN: Duration = Duration::from_secs(30);

/// How many builds are cancelled at once.
const MAX_SUPERSEDED_AT_ONCE: usize = 8;

/// Cancels older builds, once the projection has folded the event at `sequence`.
pub(super) fn supersede_later(announcer: &Announcer, build: &Build, sequence: u64) {
    let Some(key) = build.request.supersede_key.clone() else { return };
    let (project, id, order) = (build.request.project.clone(), build.request.build, build.order);
    let announcer = announcer.clone();
    announcer.tasks.clone().spawn(async move {
        let seen = tokio::time::timeout(NEW_BUILD_FOLDED_WITHIN, announcer.feed.folded(sequence));
        let Some(Ok(())) = announcer.stop.run_until_cancelled(seen).await else { return };
        let older = match announcer.projection.superseded(&project, &key, order).await {
            Ok(older) => older,
            Err(error) => {
                let error = chain(&error);
                return tracing::warn!(build = %id, error, "older builds are superseded later");
            }
        };
        futures::stream::iter(older)
            .for_each_concurrent(MAX_SUPERSEDED_AT_ONCE, |old| {
                let (announcer, project) = (&announcer, &project);
                async move {
                    let queue = &announcer.queue;
                    let _reported = supersede(queue, announcer, project, old, id).await;
                }
            })
            .await;
    });
}
