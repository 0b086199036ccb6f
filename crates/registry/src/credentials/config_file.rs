// SPDX-License-Identifier: Apache-2.0

//! Docker's `config.json`, as far as it concerns registries.
//!
//! An entry is understood when its registry is asked, so that one that nobody needs stops nothing.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;
use slipway_proto::Reference;

use super::Login;

/// A file that was parsed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigFile {
    auths: Option<BTreeMap<String, Value>>,
    /// The helper that has the credentials of all registries that have none of their own.
    creds_store: Option<String>,
    /// The helpers of single registries.
    cred_helpers: Option<BTreeMap<String, String>>,
}

/// What a file says of a repository.
pub(super) enum Entry {
    /// These credentials.
    Login(Login),
    /// Something that cannot be understood, under this key.
    Malformed(String),
    /// That a helper program has them.
    Helper(String),
    /// Nothing.
    None,
}

impl ConfigFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Returns what the file says of a repository: the entry with the longest matching path, unless
    /// it is empty, as Docker writes one for a registry whose credentials a helper keeps.
    pub(super) fn entry(&self, reference: &Reference) -> Entry {
        let name = reference.name();
        let covers = |key: &str| {
            let rest = name.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut matching: Vec<(String, &String, &Value)> = self
            .auths
            .iter()
            .flatten()
            .map(|(key, entry)| (normalize(key), key, entry))
            .filter(|(normal, ..)| covers(normal))
            .collect();
        matching.sort_by_key(|(normal, ..)| std::cmp::Reverse(normal.len()));
        for (_, key, entry) in matching {
            match understand(entry) {
                Some(Some(login)) => return Entry::Login(login),
                Some(None) => {}
                None => return Entry::Malformed(key.clone()),
            }
        }
        let helpers = self.cred_helpers.iter().flatten();
        let mut helpers = helpers.filter(|(key, _)| covers(&normalize(key)));
        let helper = helpers.next().map(|(_, helper)| helper).or(self.creds_store.as_ref());
        match helper.filter(|helper| !helper.is_empty()) {
            Some(helper) => Entry::Helper(helper.clone()),
            None => Entry::None,
        }
    }
}

/// Docker writes Hub's entry as `https://index.docker.io/v1/`, others as a host or a URL.
fn normalize(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// Reads an entry: the login, or that there is none. `None` if it is malformed.
fn understand(entry: &Value) -> Option<Option<Login>> {
    let member = |name: &str| match &entry[name] {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => None,
    };
    if !entry.is_object() && !entry.is_null() {
        return None;
    }
    // Next to an identity token, user and password are placeholders.
    if let Some(token) = member("identitytoken")? {
        return Some(Some(Login::Identity(token.to_owned())));
    }
    if let (Some(user), Some(password)) = (member("username")?, member("password")?) {
        return Some(Some(Login::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }));
    }
    match member("auth")? {
        Some(auth) => decode(auth).map(Some),
        None => Some(None),
    }
}

fn decode(auth: &str) -> Option<Login> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker itself drops trailing zeros.
    let password = password.trim_end_matches('\0');
    Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
}
