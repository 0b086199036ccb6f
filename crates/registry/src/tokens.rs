// SPDX-License-Identifier: Apache-2.0

//! The tokens of a process: kept for all builds until they are over, and asked for once by all who
//! want the same at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RegistryError;
use super::access::Access;
use super::challenge::Scheme;
use super::token::Token;
use crate::single_flight::SingleFlight;

/// The most tokens that are kept, of a few KiB each, and the most registries that are remembered.
const MAX_TOKENS: usize = 1024;

/// The tokens of a process.
#[derive(Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<Access, Arc<Token>>>,
    /// How registries want to be asked, so that a token can be had before they answer 401.
    schemes: Mutex<HashMap<String, Scheme>>,
    /// Tokens that are asked for at this moment, and why the last ones could not be had.
    asking: SingleFlight<Access, RegistryError>,
}

impl Tokens {
    /// Returns the token for an access, if there is one that is not over and was asked for with the
    /// credentials of this state.
    pub(super) fn kept(&self, access: &Access, generation: u64) -> Option<Arc<Token>> {
        let is_good = |token: &&Arc<Token>| !token.is_over() && token.generation == generation;
        lock(&self.kept).get(access).filter(is_good).map(Arc::clone)
    }

    /// Asks for a token and keeps it. `refused` is one that the registry takes no longer: if there
    /// is another by now, or while this waits for others who ask, that is returned. Who waits for
    /// others shares their failure, too, instead of failing the same way one after the other.
    pub(super) async fn another(
        &self,
        (access, generation): (&Access, u64),
        refused: Option<&Arc<Token>>,
        ask: impl Future<Output = Result<Token, RegistryError>>,
    ) -> Result<Arc<Token>, RegistryError> {
        let flight = self.asking.join(access.clone()).await;
        let kept = self.kept(access, generation);
        let is_refused = |token: &Arc<Token>| refused.is_some_and(|old| Arc::ptr_eq(old, token));
        if let Some(token) = kept.filter(|token| !is_refused(token)) {
            return Ok(token);
        }
        if let Some(failure) = flight.result() {
            return Err(failure.again());
        }
        match ask.await {
            Ok(token) => {
                let token = Arc::new(token);
                let mut kept = lock(&self.kept);
                make_room(&mut kept, |token| !token.is_over());
                kept.insert(access.clone(), Arc::clone(&token));
                Ok(token)
            }
            Err(failure) => {
                flight.complete(failure.again());
                Err(failure)
            }
        }
    }

    /// Returns how a registry wanted to be asked the last time.
    pub(super) fn scheme(&self, registry: &str) -> Option<Scheme> {
        lock(&self.schemes).get(registry).cloned()
    }

    /// Remembers how a registry wants to be asked.
    pub(super) fn remember(&self, registry: &str, scheme: &Scheme) {
        let mut schemes = lock(&self.schemes);
        if schemes.get(registry) != Some(scheme) {
            make_room(&mut schemes, |_| true);
            schemes.insert(registry.to_owned(), scheme.clone());
        }
    }
}

/// Makes room by removing entries that are no longer wanted, or else all of them. Each removed entry
/// costs one request if it is needed again.
fn make_room<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, is_wanted: impl Fn(&V) -> bool) {
    if map.len() >= MAX_TOKENS {
        map.retain(|_, value| is_wanted(value));
    }
    if map.len() >= MAX_TOKENS {
        map.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are consistent after every operation, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::Repository;
    use super::*;

    fn access(reference: &str) -> Access {
        let reference = reference.parse().expect("a reference");
        Access::push(&Repository { reference, secret: None })
    }

    /// Counts who asks.
    #[derive(Default)]
    struct Server(AtomicU32);

    impl Server {
        async fn ask(&self) -> Result<Token, RegistryError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(Token::basic("user", "password", 0))
        }

        async fn fail(&self) -> Result<Token, RegistryError> {
            self.ask().await?;
            Err(RegistryError::unavailable("it is away".to_owned()))
        }

        fn asked(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn all_tags_of_a_repository_share_one_token_that_is_asked_for_once() {
        let (tokens, server) = (Tokens::default(), Server::default());
        let tags: Vec<Access> = (0..20).map(|n| access(&format!("r.example/app:{n}"))).collect();
        let asking = tags.iter().map(|tag| tokens.another((tag, 0), None, server.ask()));
        let got = futures::future::try_join_all(asking).await.expect("all get one");
        assert!(got.iter().all(|token| Arc::ptr_eq(token, &got[0])));
        assert_eq!(server.asked(), 1);
        assert!(tokens.kept(&access("r.example/app@sha256:0000000000000000000000000000000000000000000000000000000000000000"), 0).is_some());
        assert!(tokens.kept(&access("r.example/other:1"), 0).is_none());
        let pull = Repository { reference: "r.example/app:1".parse().expect("one"), secret: None };
        assert!(tokens.kept(&Access::pull(&pull), 0).is_none(), "another right");
        assert!(tokens.kept(&Access::mount(&pull, "base"), 0).is_none(), "another right");
        assert!(tokens.kept(&Access::mount(&pull, "app"), 0).is_some(), "the same right");
    }

    #[tokio::test]
    async fn a_token_that_the_registry_refuses_is_replaced_once() {
        let (tokens, server) = (Tokens::default(), Server::default());
        let access = access("r.example/app:1");
        let old = tokens.another((&access, 0), None, server.ask()).await.expect("a token");
        let asking = (0..20).map(|_| tokens.another((&access, 0), Some(&old), server.ask()));
        let got = futures::future::try_join_all(asking).await.expect("all get one");
        assert!(!Arc::ptr_eq(&got[0], &old) && got.iter().all(|token| Arc::ptr_eq(token, &got[0])));
        assert_eq!(server.asked(), 2);
        let late = tokens.another((&access, 0), Some(&old), server.ask()).await.expect("a token");
        assert!(Arc::ptr_eq(&late, &got[0]), "it was replaced already");
        assert_eq!(server.asked(), 2);
    }

    #[tokio::test]
    async fn who_waits_shares_a_failure_and_who_comes_later_asks_again() {
        let (tokens, server) = (Tokens::default(), Server::default());
        let access = access("r.example/app:1");
        let asking = (0..20).map(|_| tokens.another((&access, 0), None, server.fail()));
        let failures = futures::future::join_all(asking).await;
        let words =
            failures.iter().map(|failed| failed.as_ref().expect_err("a failure").to_string());
        assert!(words.into_iter().all(|words| words == "it is away"));
        assert_eq!(server.asked(), 1);
        tokens.another((&access, 0), None, server.ask()).await.expect("a token");
        assert_eq!(server.asked(), 2);
    }

    #[tokio::test]
    async fn tokens_are_kept_in_bounded_number() {
        let (tokens, server) = (Tokens::default(), Server::default());
        for number in 0..=MAX_TOKENS {
            let access = access(&format!("r{number}.example/app"));
            tokens.another((&access, 0), None, server.ask()).await.expect("a token");
            tokens.remember(access.repository.reference.registry(), &Scheme::Basic);
        }
        assert!(lock(&tokens.kept).len() <= MAX_TOKENS);
        assert!(lock(&tokens.schemes).len() <= MAX_TOKENS);
    }
}
