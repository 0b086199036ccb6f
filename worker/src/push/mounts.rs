// SPDX-License-Identifier: Apache-2.0

//! Which mounts the registries of one build have refused, so that they are not asked again.
//!
//! A mount saves an upload and is never a duty: registries answer one that they do not support, or
//! do not allow, with any status. A refusal of the credentials, or of the name, concerns the
//! repository to mount from; any other concerns the whole registry. The next build asks again, because a refusal may
//! have been a fault of that moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_registry::{ErrorKind, RegistryError, Repository};

/// The mounts of a build.
#[derive(Default)]
pub struct Mounts(Mutex<HashMap<Source, Arc<Gate>>>);

/// A registry, or one of its repositories to mount from.
type Source = (String, Option<String>);

/// What is known of the mounts of a registry, or of those from one repository.
#[derive(Default)]
struct Gate {
    known: Mutex<Option<Answer>>,
    /// Held during the first mount, which tells about the others.
    first: tokio::sync::Mutex<()>,
}

/// How mounts are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// By the specification.
    Mounts,
    /// By a refusal.
    Refuses,
}

/// The right to ask for one mount.
pub(super) struct Permission<'a> {
    registry: &'a Gate,
    source: &'a Gate,
}

impl Mounts {
    /// Runs one mount, unless it would be refused as an earlier one of this build was: then returns
    /// `None`. The first mount of a registry goes alone, and so does the first from each repository,
    /// so that one refusal is enough.
    pub(super) async fn ask<T>(
        &self,
        target: &Repository,
        from: &str,
        mount: impl AsyncFnOnce(Permission<'_>) -> T,
    ) -> Option<T> {
        let registry = target.reference.registry();
        let gates = [self.gate(registry, None), self.gate(registry, Some(from))];
        let mut alone = Vec::new();
        for gate in &gates {
            if gate.known().is_none() {
                let first = gate.first.lock().await;
                // Another may have been the first while this waited.
                alone.extend(gate.known().is_none().then_some(first));
            }
        }
        if gates.iter().any(|gate| gate.known() == Some(Answer::Refuses)) {
            return None;
        }
        let [registry, source] = &gates;
        Some(mount(Permission { registry, source }).await)
    }

    fn gate(&self, registry: &str, from: Option<&str>) -> Arc<Gate> {
        let key = (registry.to_owned(), from.map(str::to_owned));
        Arc::clone(lock(&self.0).entry(key).or_default())
    }
}

impl Gate {
    fn known(&self) -> Option<Answer> {
        *lock(&self.known)
    }

    fn learn(&self, answer: Answer) {
        *lock(&self.known) = Some(answer);
    }
}

impl Permission<'_> {
    /// Remembers that the registry answered by the specification.
    pub(super) fn answered(self) {
        self.registry.learn(Answer::Mounts);
        self.source.learn(Answer::Mounts);
    }

    /// Remembers a refusal. A connection that broke is none.
    pub(super) fn refused(self, refusal: &RegistryError) {
        match refusal.kind() {
            ErrorKind::Denied | ErrorKind::NotFound => self.source.learn(Answer::Refuses),
            _ if refusal.is_unanswered() => {}
            _ => self.registry.learn(Answer::Refuses),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are consistent after every operation, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn repository(name: &str) -> Repository {
        Repository { reference: name.parse().expect("a reference"), secret: None }
    }

    /// Asks for four mounts at once, which all get one answer; returns how many were asked for.
    async fn asked(mounts: &Mounts, from: &str, answer: Result<(), RegistryError>) -> u32 {
        let (target, asked) = (repository("r.example/app:1"), AtomicU32::new(0));
        let each = (0..4).map(|_| {
            mounts.ask(&target, from, async |permission| {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                match &answer {
                    Ok(()) => permission.answered(),
                    Err(refusal) => permission.refused(refusal),
                }
            })
        });
        futures::future::join_all(each).await;
        asked.into_inner()
    }

    #[tokio::test]
    async fn a_registry_that_refused_a_mount_is_not_asked_again() {
        let mounts = Mounts::default();
        assert_eq!(asked(&mounts, "base", Err(RegistryError::refused("no".into()))).await, 1);
        assert_eq!(asked(&mounts, "other", Ok(())).await, 0);
    }

    #[tokio::test]
    async fn one_repository_that_may_not_be_read_says_nothing_of_the_others() {
        let mounts = Mounts::default();
        assert_eq!(asked(&mounts, "base", Err(RegistryError::denied("no".into()))).await, 1);
        assert_eq!(asked(&mounts, "other", Ok(())).await, 4);
        assert_eq!(asked(&mounts, "base", Ok(())).await, 0);
    }

    #[tokio::test]
    async fn an_answer_that_makes_no_sense_is_a_refusal() {
        let mounts = Mounts::default();
        let odd = RegistryError::unavailable("it is said to be another".into());
        assert_eq!(asked(&mounts, "base", Err(odd)).await, 1);
        assert_eq!(asked(&mounts, "other", Ok(())).await, 0);
    }
}
