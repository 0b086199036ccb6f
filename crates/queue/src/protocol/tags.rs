// SPDX-License-Identifier: Apache-2.0

//! Writing tags so that the last submitted build has them in the end.
//!
//! A registry takes whatever is written last. So a build first enters itself as the tag's owner,
//! which an older build cannot do after a newer one. After the write it reads the owner again: if a
//! newer build has entered itself meanwhile, this write may have undone that build's, and the newer
//! image is written once more. A worker that dies between its write and that look leaves it to the
//! next attempt of its build, which looks before it gives way, or, if there is none, to the worker
//! that acknowledges the ended build's request.

use futures::future::join_all;
use slipway_proto::outcome::SupersededTag;
use slipway_proto::{Build, BuildRequest, Reference};

use super::Operations;
use super::attempt::{Attempt, AttemptFailure, End, Registry, Tagged, Work, Worker};
use crate::RecordError;
use crate::failpoint::{failpoint, is_off};
use crate::tag::{OwnerEntry, TagOwner};

/// How often a tag is repaired in a row before it is left to the builds that keep overtaking.
const MAX_REPAIRS: u32 = 20;

/// Returns whether a build may enter itself as a tag's owner: not after one that was submitted
/// later.
fn may_enter(claimant: &TagOwner, owner: Option<&TagOwner>) -> bool {
    owner.is_none_or(|owner| owner.order <= claimant.order)
}

/// What to do about a tag once its owner is stored.
#[derive(Debug, PartialEq, Eq)]
enum AfterClaim {
    /// Write it: this build owns it.
    Write,
    /// Leave it to the later build, once it points at that build's image: an earlier attempt may
    /// have died between its write and its second look.
    Repair,
    /// Leave it to the later build.
    GiveWay,
}

fn after_claim(claimant: &TagOwner, owner: &TagOwner, epoch: u64) -> AfterClaim {
    if owner.build == claimant.build {
        AfterClaim::Write
    } else if epoch > 1 {
        AfterClaim::Repair
    } else {
        AfterClaim::GiveWay
    }
}

/// Returns the later build that owns a tag which a build has just written, if one does.
fn overtaken_by(build: slipway_proto::BuildId, owner: Option<TagOwner>) -> Option<TagOwner> {
    owner.filter(|owner| owner.build != build && !is_off("second-look"))
}

/// Returns the owner whose image a tag has to be pointed at, behind a write for another; `None` when
/// the owner stayed the same over the write.
fn repaired_again(written: &TagOwner, now: Option<TagOwner>) -> Option<TagOwner> {
    now.filter(|now| now != written)
}

/// Enters a build as the owner of a tag, unless one that was submitted later owns it; returns the
/// owner then.
pub(super) async fn claim<O: Operations>(
    operations: &O,
    claimant: &TagOwner,
) -> Result<TagOwner, RecordError> {
    loop {
        let found = operations.tag_owner(&claimant.reference).await?;
        let (owner, revision) = match found {
            Some(OwnerEntry { owner, revision }) => (Some(owner), revision),
            None => (None, 0),
        };
        if let Some(owner) =
            owner.filter(|owner| !may_enter(claimant, Some(owner)) || owner == claimant)
        {
            return Ok(owner);
        }
        match operations.enter_owner(claimant, revision).await {
            Ok(()) => return Ok(claimant.clone()),
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
}

impl<O: Operations, R: Registry, W: Work> Attempt<'_, O, R, W> {
    /// Points every reference of the request at the image, unless a later build owns it.
    pub(super) async fn tag(&self, made: &W::Made) -> Result<Tagged, End> {
        self.check_lease()?;
        if !self.worker.registry.has_tags() {
            return Ok(Tagged::default());
        }
        let references = &self.record.build.request.references;
        let each = references.iter().map(|reference| self.tag_one(reference, made));
        // All of them run to their end, because a failure of one must not keep another from its
        // second look.
        let owners: Vec<_> = join_all(each).await;
        let digest = self.work.digest(made);
        let mut tagged = Tagged::default();
        for (reference, owner) in references.iter().zip(owners) {
            let Some(owner) = owner? else {
                self.work.line(&format!("tagged {reference}"));
                tagged.written.push(reference.clone());
                continue;
            };
            self.work.line(&format!(
                "tag_superseded: {reference} belongs to build {}, which was submitted later; this \
                image is {}",
                owner.build,
                reference.with_digest(digest)
            ));
            let superseded = SupersededTag { reference: reference.clone(), by: owner.build };
            tagged.superseded.push(superseded);
        }
        Ok(tagged)
    }

    /// Writes one tag, and returns the later build that owns it, if there is one.
    async fn tag_one(
        &self,
        reference: &Reference,
        made: &W::Made,
    ) -> Result<Option<TagOwner>, End> {
        let build = &self.record.build;
        let writer = writer(build);
        if is_off("tag-fencing") {
            self.work.put_tag(reference, made, &writer).await?;
            return Ok(None);
        }
        let claimant = TagOwner {
            reference: reference.clone(),
            project: build.request.project.clone(),
            build: build.request.build,
            order: build.order,
            digest: self.work.digest(made),
        };
        let operations = self.worker.operations;
        let owner = claim(operations, &claimant).await;
        let owner = owner.map_err(|error| End::Failed(unknown_owner(reference, &error)))?;
        failpoint("tag.claimed");
        self.check_lease()?;
        match after_claim(&claimant, &owner, build.state.epoch) {
            AfterClaim::Write => {}
            AfterClaim::GiveWay => return Ok(Some(owner)),
            AfterClaim::Repair => {
                self.repair(owner.clone(), &writer).await?;
                return Ok(Some(owner));
            }
        }
        let written = self.work.put_tag(reference, made, &writer).await;
        failpoint("tag.written");
        // Even if the write failed, because it may have arrived. And even if the lease is lost,
        // because what is written then is the later build's image.
        let found = operations.tag_owner(reference).await;
        let found = found.map_err(|error| End::Failed(unknown_owner(reference, &error)))?;
        match overtaken_by(claimant.build, found.map(|entry| entry.owner)) {
            Some(later) => {
                self.repair(later.clone(), &writer).await?;
                Ok(Some(later))
            }
            None => written.map(|()| None),
        }
    }

    async fn repair(&self, owner: TagOwner, writer: &str) -> Result<(), End> {
        let request = &self.record.build.request;
        self.worker.repair(request, owner, writer).await.map_err(End::Failed)
    }
}

impl<O: Operations, R: Registry> Worker<'_, O, R> {
    /// Points a tag at its owner's image, until the owner is the same before and after a write.
    async fn repair(
        &self,
        request: &BuildRequest,
        mut owner: TagOwner,
        writer: &str,
    ) -> Result<(), AttemptFailure> {
        for _ in 0..MAX_REPAIRS {
            let writer = format!("{writer} repairs={}", owner.build);
            if self.registry.point(request, &owner, &writer).await? {
                tracing::info!(tag = %owner.reference, owner = %owner.build, "repaired a tag");
            }
            let found = self.owner(&owner.reference).await?;
            match repaired_again(&owner, found) {
                Some(now) => owner = now,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn owner(&self, reference: &Reference) -> Result<Option<TagOwner>, AttemptFailure> {
        let found = self.operations.tag_owner(reference).await;
        let found = found.map_err(|error| unknown_owner(reference, &error))?;
        Ok(found.map(|entry| entry.owner))
    }

    /// Gives back the tags of a build that ended without success: none that a later build owns may
    /// point at its image.
    pub(super) async fn leave_tags(&self, build: &Build) -> Result<(), AttemptFailure> {
        if !self.registry.has_tags() {
            return Ok(());
        }
        let (request, writer) = (&build.request, writer(build));
        for reference in &request.references {
            let owner = self.owner(reference).await?;
            if let Some(owner) = overtaken_by(request.build, owner) {
                self.repair(request, owner, &writer).await?;
            }
        }
        Ok(())
    }
}

/// The writer's name for the registry's log.
fn writer(build: &Build) -> String {
    format!("build={} epoch={}", build.request.build, build.state.epoch)
}

/// NATS does not say who owns a tag: no fault of the build.
fn unknown_owner(reference: &Reference, error: &RecordError) -> AttemptFailure {
    let message = format!("the owner of {reference} could not be read or written: {error}");
    AttemptFailure::unavailable(message)
}

#[cfg(test)]
mod tests {
    use slipway_proto::{BuildId, Digest};

    use super::*;

    fn owner(order: u64) -> TagOwner {
        TagOwner {
            reference: "r.example/app:1".parse().expect("a reference"),
            project: "team".parse().expect("a name"),
            build: BuildId::fresh(),
            order,
            digest: Digest::of(b"manifest"),
        }
    }

    #[test]
    fn a_build_enters_itself_unless_a_later_one_owns_the_tag() {
        let claimant = owner(5);
        assert!(may_enter(&claimant, None));
        assert!(may_enter(&claimant, Some(&owner(4))));
        assert!(may_enter(&claimant, Some(&claimant)));
        assert!(!may_enter(&claimant, Some(&owner(6))));
    }

    #[test]
    fn only_a_first_attempt_gives_way_without_a_look_at_the_tag() {
        let (mine, later) = (owner(5), owner(6));
        assert_eq!(after_claim(&mine, &mine, 2), AfterClaim::Write);
        assert_eq!(after_claim(&mine, &later, 1), AfterClaim::GiveWay);
        assert_eq!(after_claim(&mine, &later, 2), AfterClaim::Repair);
    }

    #[test]
    fn a_tag_is_written_again_until_its_owner_stays_the_same() {
        let (mine, later) = (owner(5), owner(6));
        assert_eq!(overtaken_by(mine.build, Some(mine.clone())), None);
        assert_eq!(overtaken_by(mine.build, Some(later.clone())), Some(later.clone()));
        assert_eq!(repaired_again(&later, Some(later.clone())), None);
        assert_eq!(repaired_again(&mine, Some(later.clone())), Some(later));
    }
}
