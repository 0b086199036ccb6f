// SPDX-License-Identifier: Apache-2.0

//! The challenge in a registry's 401 (RFC 9110, 11.6.1; distribution specification, "Token
//! Authentication").

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::Url;

/// The scheme of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scheme {
    /// With user and password.
    Basic,
    /// With a token.
    Bearer {
        /// The address of the token server.
        realm: Url,
        /// The registry's name there.
        service: Option<String>,
    },
}

/// The content of a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: Scheme,
    /// The scopes of the token, each as `repository:team/app:pull,push`.
    pub(super) scopes: Vec<String>,
    /// Whether the token was valid but does not allow this (RFC 6750, 3.1).
    pub(super) is_insufficient: bool,
}

impl Challenge {
    /// Reads the challenge of an answer. Of several, one that asks for a token.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut found: Vec<Self> = values.flat_map(read).collect();
        found.sort_by_key(|challenge| challenge.scheme == Scheme::Basic);
        found.into_iter().next()
    }
}

/// Reads the supported challenges of one header.
fn read(value: &str) -> Vec<Challenge> {
    let parsed = http_auth::parse_challenges(value).unwrap_or_default();
    parsed.iter().filter_map(understand).collect()
}

fn understand(challenge: &http_auth::ChallengeRef<'_>) -> Option<Challenge> {
    let parameter = |wanted: &str| {
        let found = challenge.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_unescaped())
    };
    let scheme = if challenge.scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer { realm: parameter("realm")?.parse().ok()?, service: parameter("service") }
    } else if challenge.scheme.eq_ignore_ascii_case("basic") {
        Scheme::Basic
    } else {
        return None;
    };
    let scopes = parameter("scope").unwrap_or_default();
    Some(Challenge {
        scheme,
        scopes: scopes.split_whitespace().map(str::to_owned).collect(),
        is_insufficient: parameter("error").is_some_and(|error| error == "insufficient_scope"),
    })
}

/// Adds the scopes that a registry names to the requested ones. Some registries use other
/// repository names than their clients.
pub(super) fn with_named(mut scopes: Vec<String>, named: &[String]) -> Vec<String> {
    for scope in named {
        if !scopes.iter().any(|asked| covers(asked, scope)) {
            scopes.push(scope.clone());
        }
    }
    scopes
}

fn covers(asked: &str, named: &str) -> bool {
    let (Some((resource, allowed)), Some((wanted, actions))) =
        (asked.rsplit_once(':'), named.rsplit_once(':'))
    else {
        return asked == named;
    };
    let allows = |action| allowed.split(',').any(|allowed| allowed == action);
    resource == wanted && actions.split(',').all(allows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().expect("a value"));
        }
        Challenge::of(&headers)
    }

    #[test]
    fn a_challenge_says_where_tokens_are_and_what_they_must_allow() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push repository:c:pull",error="insufficient_scope""#;
        let expected = Challenge {
            scheme: Scheme::Bearer {
                realm: "https://auth.example/token".parse().expect("an address"),
                service: Some("r.example".to_owned()),
            },
            scopes: vec!["repository:a/b:pull,push".to_owned(), "repository:c:pull".to_owned()],
            is_insufficient: true,
        };
        assert_eq!(challenge(&[bearer]).as_ref(), Some(&expected));
        assert_eq!(challenge(&["Basic realm=\"x\"", bearer]), Some(expected));
        let basic = challenge(&["Negotiate", "basic realm=\"x\""]).expect("it is understood");
        assert_eq!((basic.scheme, basic.is_insufficient), (Scheme::Basic, false));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        let nonsense =
            ["", "Bearer", "Bearer realm=\"nowhere\"", "Digest realm=\"x\"", "\"", "a b c"];
        for value in nonsense {
            assert_eq!(challenge(&[value]), None, "{value}");
        }
        assert_eq!(challenge(&[]), None);
    }

    #[test]
    fn only_what_was_not_asked_for_is_added() {
        let asked = || vec!["repository:a:pull,push".to_owned()];
        let with = |named: &str| with_named(asked(), &[named.to_owned()]).split_off(1);
        for covered in ["repository:a:pull", "repository:a:push,pull", "repository:a:pull,push"] {
            assert!(with(covered).is_empty(), "{covered}");
        }
        for other in ["repository:b:pull", "repository:a:delete", "repository(plugin):a:pull", "x"]
        {
            assert_eq!(with(other), [other]);
        }
    }
}
