// SPDX-License-Identifier: Apache-2.0

//! A token: what is asked for, the request to the token server, and its answer (distribution
//! specification, "Token Authentication" and "OAuth2 Token Authentication").
//!
//! This is not left to a client library: those ask for one repository, and a blob is mounted with
//! a token for two. A user and password are shown to the token server in a GET, an identity token
//! is exchanged in a POST, and who has neither gets a token for what is public.

use std::time::Duration;

use base64::Engine as _;
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{RequestBuilder, Url};
use serde_json::Value;
use tokio::time::Instant;

use super::RegistryError;
use super::body::read_bounded;
use super::challenge::Scheme;
use super::credentials::{Found, Login};
use super::transport::Registry;

/// The largest answer of a token server that is read, in bytes. Tokens go in a header, so that few
/// are longer than 8 KiB.
const MAX_ANSWER: usize = 256 * 1024;
/// How long a token is valid whose server does not say so, in seconds; the specification's number.
const DEFAULT_LIFE: u64 = 60;
/// The longest that a token is kept, in seconds: an hour costs one request.
const MAX_LIFE: u64 = 60 * 60;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) scheme: Scheme,
    /// What the token is to allow.
    pub(super) scopes: Vec<String>,
}

/// What authorizes requests.
#[derive(Debug)]
pub(super) struct Token {
    /// What was asked for; a server may have granted less.
    pub(super) question: Question,
    /// The header's value; it does not show itself.
    value: HeaderValue,
    /// The state of the credentials it was asked with.
    pub(super) generation: u64,
    pub(super) asked_at: Instant,
    until: Option<Instant>,
}

impl Token {
    /// Returns user and password as they go with each request. `generation` is the state of the
    /// files that they come from.
    pub(super) fn basic(user: &str, password: &str, generation: u64) -> Self {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is ASCII");
        value.set_sensitive(true);
        let question = Question { scheme: Scheme::Basic, scopes: Vec::new() };
        Self { question, value, generation, asked_at: Instant::now(), until: None }
    }

    /// Reads a token server's answer to what was asked at a moment, with credentials of a state.
    fn read(
        question: Question,
        answer: &[u8],
        (asked_at, generation): (Instant, u64),
    ) -> Option<Self> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let token = answer["token"].as_str().or(answer["access_token"].as_str())?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        let life = answer["expires_in"].as_u64().unwrap_or(DEFAULT_LIFE).clamp(1, MAX_LIFE);
        // A tenth earlier: a request takes its time, too.
        let until = asked_at + Duration::from_secs(life) * 9 / 10;
        Some(Self { question, value, generation, asked_at, until: Some(until) })
    }

    /// Returns whether it says the same as another.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.value == other.value
    }

    /// Returns whether the time is over that its server gave it.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Authorizes a request.
    pub(super) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(AUTHORIZATION, self.value.clone())
    }
}

/// Asks a token server. `what` is the repository that it is for, in messages.
pub(super) async fn ask(
    registry: &Registry,
    name: &str,
    question: Question,
    found: &Found,
    what: &str,
) -> Result<Token, RegistryError> {
    let Found { login, absence, generation } = found;
    let asked = (Instant::now(), *generation);
    let Scheme::Bearer { realm, service } = &question.scheme else {
        return match login {
            Login::Password { user, password } => Ok(Token::basic(user, password, *generation)),
            Login::Anonymous => Err(RegistryError::denied(format!(
                "{what}: the registry asks for a user and password; {absence}"
            ))),
            Login::Identity(_) => Err(RegistryError::denied(format!(
                "{what}: the registry asks for a user and password, and the worker has an identity \
                token for it; put a user and password into the Docker config.json"
            ))),
        };
    };
    let what = format!("{what}: the token server");
    let http = registry.http();
    let make = || request(http, realm, service.as_deref(), &question.scopes, login);
    let response = registry.exchange(name, &what, &make).await?;
    if !response.status().is_success() {
        let error = RegistryError::from_response(&what, response).await;
        return Err(if error.is_transient() {
            error
        } else {
            // Its words may repeat the credentials.
            RegistryError::denied(match login {
                Login::Anonymous => {
                    format!("{what} refuses who has no credentials; {absence}")
                }
                _ => format!(
                    "{what} refused the worker's credentials; check them in the Docker \
                    config.json that the worker reads"
                ),
            })
        });
    }
    let answer = read_bounded(response, MAX_ANSWER, &what).await?;
    Token::read(question, &answer, asked)
        .ok_or_else(|| RegistryError::malformed(format!("{what} answered without a token")))
}

fn request(
    http: &reqwest::Client,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    login: &Login,
) -> RequestBuilder {
    let service = service.map(|service| ("service", service));
    if let Login::Identity(token) = login {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
        form.append_pair("client_id", "slipway").append_pair("scope", &scopes.join(" "));
        form.extend_pairs(service);
        let request = http.post(realm.clone());
        return request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish());
    }
    let mut address = realm.clone();
    let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
    address.query_pairs_mut().extend_pairs(service.into_iter().chain(scopes));
    let request = http.get(address);
    match login {
        Login::Password { user, password } => request.basic_auth(user, Some(password)),
        Login::Anonymous | Login::Identity(_) => request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Option<Token> {
        let question = Question { scheme: Scheme::Basic, scopes: Vec::new() };
        Token::read(question, answer.as_bytes(), (Instant::now(), 0))
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_over_before_its_server_says_so() {
        for (answer, seconds) in [
            (r#"{"token": "x", "expires_in": 300}"#, 300),
            (r#"{"access_token": "x", "expires_in": 300}"#, 300),
            (r#"{"token": "x"}"#, DEFAULT_LIFE),
            (r#"{"token": "x", "expires_in": "soon"}"#, DEFAULT_LIFE),
            (r#"{"token": "x", "expires_in": 0}"#, 1),
            (r#"{"token": "x", "expires_in": 18446744073709551615}"#, MAX_LIFE),
        ] {
            let token = read(answer).expect("a token");
            assert!(!token.is_over(), "{answer}");
            tokio::time::advance(Duration::from_secs(seconds) * 8 / 10).await;
            assert!(!token.is_over(), "{answer}");
            tokio::time::advance(Duration::from_secs(seconds) / 10).await;
            assert!(token.is_over(), "{answer}");
            assert!(!format!("{token:?}").contains('x'), "it is a secret");
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        for answer in ["", "{}", "[]", r#"{"token": 7}"#, r#"{"token": "a\nb"}"#, "<html>"] {
            assert!(read(answer).is_none(), "{answer}");
        }
    }
}
