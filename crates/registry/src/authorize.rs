// SPDX-License-Identifier: Apache-2.0

//! Authorizes requests, for registries that require it.
//!
//! The first 401 shows what a registry wants. From then on the token is fetched before the request,
//! so that many requests at once do not all fail first.

use std::sync::Arc;

use http::StatusCode;
use reqwest::{RequestBuilder, Response, Url};
use tokio::time::Instant;

use super::access::Access;
use super::challenge::{self, Challenge, Scheme};
use super::token::{self, Question, Token};
use super::transport::{Registry, send};
use super::{ErrorKind, RegistryError, Repository};

impl Registry {
    /// Sends a request with the token for its access, and again with a new token if the answer is
    /// 401.
    pub(super) async fn send_authorized(
        &self,
        access: &Access,
        what: &str,
        make: &(dyn Fn() -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let begun = Instant::now();
        let token = self.token(access).await?;
        let signed = |token: Option<&Arc<Token>>| match token {
            Some(token) => token.sign(make()),
            None => make(),
        };
        let response = send(signed(token.as_ref()), what).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // Only the registry decides where credentials go, not a host that it redirects to.
        let is_its_own = self.url(access, "")?.origin() == response.url().origin();
        let challenge = Challenge::of(response.headers()).filter(|_| is_its_own);
        let question = self.question(access, challenge.as_ref());
        // The token server did not grant everything, and would not now. For a mount this is
        // believed as long as the token lives, because there is another way.
        let is_answered = |token: &Arc<Token>| {
            token.question == question && (token.asked_at >= begun || access.from.is_some())
        };
        if challenge.is_some_and(|challenge| challenge.is_insufficient)
            && token.as_ref().is_some_and(is_answered)
        {
            return Ok(response);
        }
        drop(response);
        let another = Box::pin(self.another(access, token.as_ref(), question)).await?;
        send(signed(Some(&another)), what).await
    }

    /// Returns the token for an access. Fetches one if there is none and the registry is known to
    /// want one.
    async fn token(&self, access: &Access) -> Result<Option<Arc<Token>>, RegistryError> {
        let tokens = &self.shared.tokens;
        if let Some(token) = tokens.kept(access) {
            return Ok(Some(token));
        }
        let Some(scheme) = tokens.scheme(access.repository.reference.registry()) else {
            return Ok(None);
        };
        let question = Question { scheme, scopes: access.scopes() };
        match Box::pin(self.another(access, None, question)).await {
            Ok(token) => Ok(Some(token)),
            // The registry may allow this without a token, and is asked. A mount is not worth more.
            Err(error) if error.kind() == ErrorKind::Denied && access.from.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns what to request after a 401.
    fn question(&self, access: &Access, challenge: Option<&Challenge>) -> Question {
        let registry = access.repository.reference.registry();
        let Some(challenge) = challenge else {
            // Without a challenge, the registry can only mean the usual one.
            let scheme = self.shared.tokens.scheme(registry).unwrap_or(Scheme::Basic);
            return Question { scheme, scopes: access.scopes() };
        };
        self.shared.tokens.remember(registry, &challenge.scheme);
        let scopes = challenge::with_named(access.scopes(), &challenge.scopes);
        Question { scheme: challenge.scheme.clone(), scopes }
    }

    /// Fetches a token to replace a refused one.
    async fn another(
        &self,
        access: &Access,
        refused: Option<&Arc<Token>>,
        question: Question,
    ) -> Result<Arc<Token>, RegistryError> {
        let Repository { reference, secret } = &access.repository;
        let name = reference.name();
        let ask = async {
            if let Scheme::Bearer { realm, .. } = &question.scheme
                && !self.may_be_told(reference.registry(), realm)
            {
                let host = realm.host_str().unwrap_or_default();
                return Err(RegistryError::denied(format!(
                    "{name}: the registry refers to the token server {host} without TLS; list \
                    that host as insecure, or give it TLS"
                )));
            }
            let login = self.shared.credentials.find(reference, secret.as_ref());
            let login = login.map_err(|error| RegistryError::denied(format!("{name}: {error}")))?;
            token::ask(self.http(), question, &login, &name).await
        };
        self.shared.tokens.another(access, refused, ask).await
    }

    /// Returns whether credentials may be sent to a token server: over TLS, unless the operator
    /// lists the server or the registry as insecure.
    fn may_be_told(&self, registry: &str, realm: &Url) -> bool {
        let trusted = &self.shared.options.insecure;
        realm.scheme() == "https"
            || self.is_plain(registry)
            || trusted.iter().any(|host| host == realm.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RegistryOptions;
    use super::*;

    #[test]
    fn credentials_are_told_without_tls_only_where_the_operator_trusts_the_way() {
        let insecure = vec!["plain.example".to_owned(), "auth.example:81".to_owned()];
        let registry = Registry::new(RegistryOptions { insecure, ..RegistryOptions::default() });
        let registry = registry.expect("it can be made");
        let may = |name, realm: &str| registry.may_be_told(name, &realm.parse().expect("one"));
        assert!(may("r.example", "https://anywhere.example/token"));
        assert!(may("r.example", "http://auth.example:81/token"));
        assert!(may("plain.example", "http://auth.example/token"));
        assert!(may("127.0.0.1:5000", "http://127.0.0.1:5001/token"));
        assert!(!may("r.example", "http://auth.example/token"));
        assert!(!may("r.example", "http://127.0.0.1:5001/token"));
    }
}
