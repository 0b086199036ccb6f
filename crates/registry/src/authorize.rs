// SPDX-License-Identifier: Apache-2.0

//! Authorizes requests, for registries that require it.
//!
//! The first 401 shows what a registry wants. From then on the token is fetched before the request,
//! so that many requests at once do not all fail first.

use std::sync::Arc;

use http::StatusCode;
use reqwest::{RequestBuilder, Response};
use tokio::time::Instant;

use super::access::Access;
use super::challenge::{self, Challenge, Scheme};
use super::credentials::{Found, Login};
use super::token::{self, Question, Token};
use super::transport::Registry;
use super::{ErrorKind, RegistryError, Repository};

impl Registry {
    /// Sends a request with the token for its access. Sends it once more with a new token if the
    /// answer is 401, or if it is 403 and the credentials have changed.
    pub(super) async fn send_authorized(
        &self,
        access: &Access,
        what: &str,
        make: &(dyn Fn() -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let begun = Instant::now();
        let credentials = &self.shared.credentials;
        credentials.refresh();
        let before = credentials.generation();
        let token = self.token(access).await?;
        let registry = access.repository.reference.registry();
        let response = self.send_signed(registry, what, make, token.as_ref()).await?;
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(response);
        }
        credentials.read_again();
        let is_new = credentials.generation() != before;
        if response.status() == StatusCode::FORBIDDEN && !is_new {
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
            && !is_new
        {
            return Ok(response);
        }
        if question.scheme == Scheme::Basic {
            // User and password are not asked for, so that a refusal can be kept until it is known
            // whether there are others.
            let another = Box::pin(self.another(access, token.as_ref(), question)).await?;
            if token.is_some_and(|token| token.is_same(&another)) {
                return Ok(response);
            }
            drop(response);
            return self.send_signed(registry, what, make, Some(&another)).await;
        }
        drop(response);
        let another = Box::pin(self.another(access, token.as_ref(), question)).await?;
        self.send_signed(registry, what, make, Some(&another)).await
    }

    async fn send_signed(
        &self,
        registry: &str,
        what: &str,
        make: &(dyn Fn() -> RequestBuilder + Sync),
        token: Option<&Arc<Token>>,
    ) -> Result<Response, RegistryError> {
        let signed = || match token {
            Some(token) => token.sign(make()),
            None => make(),
        };
        self.exchange(registry, what, &signed).await
    }

    /// Reads a refusal, and says what is known of the credentials if it is about them.
    pub(super) async fn refusal(
        &self,
        access: &Access,
        what: &str,
        response: Response,
    ) -> RegistryError {
        let error = RegistryError::from_response(what, response).await;
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        let Repository { reference, secret } = &access.repository;
        let note = match self.shared.credentials.find(reference, secret.as_ref()) {
            Ok(Found { login: Login::Anonymous, absence, .. }) => absence,
            Ok(_) => "check that the worker's credentials for it may do this".to_owned(),
            Err(error) => error.to_string(),
        };
        error.with_note(&note)
    }

    /// Returns the token for an access. Fetches one if there is none and the registry is known to
    /// want one.
    async fn token(&self, access: &Access) -> Result<Option<Arc<Token>>, RegistryError> {
        let tokens = &self.shared.tokens;
        if let Some(token) = tokens.kept(access, self.shared.credentials.generation()) {
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
                && !self.may_go_to(reference.registry(), realm)
            {
                let host = realm.host_str().unwrap_or_default();
                return Err(RegistryError::denied(format!(
                    "{name}: the registry refers to the token server {host} without TLS; list \
                    that host as insecure, or give it TLS"
                )));
            }
            let found = self.shared.credentials.find(reference, secret.as_ref());
            let found = found.map_err(|error| RegistryError::denied(format!("{name}: {error}")))?;
            token::ask(self, reference.registry(), question, &found, &name).await
        };
        let generation = self.shared.credentials.generation();
        self.shared.tokens.another((access, generation), refused, ask).await
    }
}
