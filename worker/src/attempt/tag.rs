// SPDX-License-Identifier: Apache-2.0

//! Writing tags so that the last submitted build has them in the end (design section 6).
//!
//! A registry takes whatever comes last. So a build first enters itself as the tag's owner, which
//! an older build cannot do after a newer one; and whoever has written looks again, and if a newer
//! owner has entered itself meanwhile, writes that one's image, whose write it may just have
//! undone. A worker that dies between its write and that look leaves it to the next attempt of its
//! build, which looks before it gives way, or, if there is none, to whoever ends the build.

use std::time::Duration;

use futures::future::join_all;
use slipway_proto::outcome::SupersededTag;
use slipway_proto::{Build, BuildRequest, Failure, Reason, Reference};
use slipway_queue::tag::TagOwner;
use slipway_queue::{RecordError, failpoint, is_off};

use super::{Attempt, Attempts, End};
use crate::assemble::Assembled;
use crate::failure::StageError;
use crate::lease::only_while;
use crate::pipeline::Pipeline;

/// How long one write of a tag may take. But for the end of the lease nothing else interrupts it, and
/// a registry that takes longer has not understood it.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// How often a tag is repaired in a row before it is left to the writers that keep overtaking.
const MAX_REPAIRS: u32 = 20;

/// Which tags a build got, and which it left to later ones.
#[derive(Debug, Default)]
pub(super) struct Tagged {
    pub(super) written: Vec<Reference>,
    pub(super) superseded: Vec<SupersededTag>,
}

impl Attempt {
    /// Points every reference of the request that no later build owns at the image.
    pub(super) async fn tag(&self, image: &Assembled) -> Result<Tagged, End> {
        self.check_lease()?;
        let Some(tagger) = self.shared.stages.tagger() else { return Ok(Tagged::default()) };
        let references = &self.request.references;
        let each = references.iter().map(|reference| self.tag_one(tagger, reference, image));
        // All of them to their end: one that fails must not keep another from looking again.
        let owners: Vec<_> = join_all(each).await;
        let mut tagged = Tagged::default();
        for (reference, owner) in references.iter().zip(owners) {
            let Some(owner) = owner? else {
                self.log.line(&format!("tagged {reference}"));
                tagged.written.push(reference.clone());
                continue;
            };
            self.log.line(&format!(
                "tag_superseded: {reference} belongs to build {}, which was submitted later; this image is {}",
                owner.build,
                reference.with_digest(image.manifest_digest)
            ));
            let superseded = SupersededTag { reference: reference.clone(), by: owner.build };
            tagged.superseded.push(superseded);
        }
        Ok(tagged)
    }

    /// Writes one tag, and returns the later build that owns it if one does.
    async fn tag_one(
        &self,
        tagger: &Pipeline,
        reference: &Reference,
        image: &Assembled,
    ) -> Result<Option<TagOwner>, End> {
        if is_off("tag-fencing") {
            self.put_tag(tagger, reference, image).await?;
            return Ok(None);
        }
        let tags = self.shared.queue.tags();
        let claimant = TagOwner {
            reference: reference.clone(),
            project: self.request.project.clone(),
            build: self.request.build,
            order: self.record.build.order,
            digest: image.manifest_digest,
        };
        let owner =
            tags.claim(&claimant).await.map_err(|error| unknown_owner(reference, &error))?;
        failpoint("tag.claimed");
        self.check_lease()?;
        if owner.build != claimant.build {
            // An earlier attempt may have died between its write and its second look.
            if self.record.build.state.epoch > 1 {
                self.repair(tagger, owner.clone()).await?;
            }
            return Ok(Some(owner));
        }
        let written = self.put_tag(tagger, reference, image).await;
        failpoint("tag.written");
        // Whether the write succeeded or not: it may have arrived. And whether the lease still
        // holds or not: what is written then is the later build's image.
        let later =
            tags.owner(reference).await.map_err(|error| unknown_owner(reference, &error))?;
        match later.filter(|later| later.build != claimant.build) {
            Some(later) => {
                self.repair(tagger, later.clone()).await?;
                Ok(Some(later))
            }
            None => written.map(|()| None),
        }
    }

    async fn put_tag(
        &self,
        tagger: &Pipeline,
        reference: &Reference,
        image: &Assembled,
    ) -> Result<(), End> {
        let writer = self.signature();
        let put = tagger.tag(&self.request, reference, image, &writer);
        // A worker that slept over a broken connection would write again.
        let put = only_while(|| self.lease.holds(), put);
        match tokio::time::timeout(WRITTEN_WITHIN, put).await {
            Ok(Some(written)) => written.map_err(End::Failed),
            Ok(None) => Err(End::Lost),
            Err(_elapsed) => {
                let message = format!("the registry did not take the tag {reference} in time");
                let failure = Failure::new(Reason::PushImageFailed, message);
                Err(End::Failed(StageError { transient: true, ..StageError::permanent(failure) }))
            }
        }
    }

    /// Says in the registry's log who writes.
    fn signature(&self) -> String {
        format!("build={} epoch={}", self.request.build, self.record.build.state.epoch)
    }

    async fn repair(&self, tagger: &Pipeline, owner: TagOwner) -> Result<(), End> {
        let repaired = self.shared.repair(tagger, &self.request, owner, &self.signature()).await;
        repaired.map_err(End::Failed)
    }
}

impl Attempts {
    /// Has a tag point at its owner's image, until the owner stays the same over a write.
    async fn repair(
        &self,
        tagger: &Pipeline,
        request: &BuildRequest,
        mut owner: TagOwner,
        signature: &str,
    ) -> Result<(), StageError> {
        for _ in 0..MAX_REPAIRS {
            let writer = format!("{signature} repairs={}", owner.build);
            let repaired = tagger.point(request, &owner.reference, owner.digest, &writer).await?;
            if repaired {
                tracing::info!(tag = %owner.reference, owner = %owner.build, "repaired a tag");
            }
            let found = self.queue.tags().owner(&owner.reference).await;
            match found.map_err(|error| no_owner(&owner.reference, &error))? {
                Some(now) if now != owner => owner = now,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Sees to it that no tag of a build that ended without success points at its image where a
    /// later build owns the tag: an attempt may have died between its write and its second look.
    pub(super) async fn leave_tags(&self, build: &Build) -> Result<(), StageError> {
        let Some(tagger) = self.stages.tagger() else { return Ok(()) };
        let request = &build.request;
        let signature = format!("build={} epoch={}", request.build, build.state.epoch);
        for reference in &request.references {
            let owner = self.queue.tags().owner(reference).await;
            let owner = owner.map_err(|error| no_owner(reference, &error))?;
            if let Some(owner) = owner.filter(|owner| owner.build != request.build) {
                self.repair(tagger, request, owner, &signature).await?;
            }
        }
        Ok(())
    }
}

fn unknown_owner(reference: &Reference, error: &RecordError) -> End {
    End::Failed(no_owner(reference, error))
}

/// NATS does not say whose a tag is: no fault of the build.
fn no_owner(reference: &Reference, error: &RecordError) -> StageError {
    let message = format!("the owner of {reference} could not be read or written: {error}");
    StageError {
        failure: Failure::new(Reason::LeaseLost, message),
        transient: true,
        charged: false,
        retry_after: None,
    }
}
