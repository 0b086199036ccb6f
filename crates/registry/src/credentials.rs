// SPDX-License-Identifier: Apache-2.0

//! Registry credentials from mounted Docker `config.json` files.
//!
//! A request only names a secret; the files stay with the worker. A file named `<secret>.json`, or
//! `config.json` in a directory named `<secret>` (as Kubernetes mounts it), holds the credentials
//! of that name. Any other file serves every request. Within a file, the entry with the longest
//! matching path wins, as in containers' `auth.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;
use slipway_proto::Reference;
use slipway_proto::id::SecretName;

/// Why credentials are not available.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("failed to read the registry credentials {path}")]
    Read {
        /// The path of the file.
        path: String,
        /// What the file system or the parser reports.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a Docker `config.json`.
    #[error("{path} is not a Docker config.json")]
    Parse {
        /// The path of the file.
        path: String,
        /// Why. Never shown, because it may quote the file.
        #[source]
        source: serde_json::Error,
    },
    /// An entry's `auth` is not base64 of `user:password`.
    #[error("the credentials for {host} in {path} are malformed")]
    Entry {
        /// The path of the file.
        path: String,
        /// The entry.
        host: String,
    },
    /// A request names credentials that this worker does not have.
    #[error("the worker has no registry secret named `{0}`")]
    UnknownSecret(SecretName),
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// How a worker authenticates.
#[derive(Clone)]
pub(super) enum Login {
    /// Not at all.
    Anonymous,
    /// By user and password.
    Password { user: String, password: String },
    /// By a token that a token server exchanges for others (`identitytoken` in Docker's file).
    Identity(String),
}

/// All credentials of a worker.
pub(super) struct Credentials {
    files: Vec<File>,
}

struct File {
    /// The names under which a request may ask for it.
    names: Vec<String>,
    logins: BTreeMap<String, Login>,
}

impl Credentials {
    pub(super) fn load(paths: &[PathBuf]) -> Result<Self, CredentialsError> {
        let files = paths.iter().map(|path| load(path)).collect::<Result<_, _>>()?;
        Ok(Self { files })
    }

    /// Finds the login for a repository.
    pub(super) fn find(
        &self,
        reference: &Reference,
        secret: Option<&SecretName>,
    ) -> Result<Login, CredentialsError> {
        let mut files: Vec<&File> = self.files.iter().collect();
        if let Some(secret) = secret {
            files.retain(|file| file.names.iter().any(|name| name == secret.as_str()));
            if files.is_empty() {
                return Err(CredentialsError::UnknownSecret(secret.clone()));
            }
        }
        let found = files.iter().find_map(|file| best(&file.logins, reference));
        Ok(found.cloned().unwrap_or(Login::Anonymous))
    }
}

fn best<'a>(logins: &'a BTreeMap<String, Login>, reference: &Reference) -> Option<&'a Login> {
    let name = reference.name();
    logins
        .iter()
        .filter(|(key, _)| {
            let rest = name.strip_prefix(key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .max_by_key(|(key, _)| key.len())
        .map(|(_, login)| login)
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

fn load(path: &Path) -> Result<File, CredentialsError> {
    let shown = || path.display().to_string();
    let text =
        std::fs::read(path).map_err(|source| CredentialsError::Read { path: shown(), source })?;
    let config: ConfigFile = serde_json::from_slice(&text)
        .map_err(|source| CredentialsError::Parse { path: shown(), source })?;
    let mut logins = BTreeMap::new();
    for (host, entry) in config.auths {
        let malformed = || CredentialsError::Entry { path: shown(), host: host.clone() };
        // Next to an identity token, user and password are placeholders.
        let identity = entry.identitytoken.filter(|token| !token.is_empty());
        let login = match (identity, entry.username, entry.password, entry.auth) {
            (Some(token), ..) => Login::Identity(token),
            (_, Some(user), Some(password), _) => Login::Password { user, password },
            (.., Some(auth)) => decode(&auth).ok_or_else(malformed)?,
            // An empty entry means a credential helper, which a worker does not run.
            _ => continue,
        };
        logins.insert(normalize(&host), login);
    }
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let mut names = Vec::new();
    names.extend(text(path.file_stem()));
    names.extend(text(path.parent().and_then(Path::file_name)));
    Ok(File { names, logins })
}

fn decode(auth: &str) -> Option<Login> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str, name: &str) -> Credentials {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        Credentials::load(&[path]).expect("it loads")
    }

    fn user(credentials: &Credentials, reference: &str) -> Option<String> {
        let reference = reference.parse().expect("a reference");
        match credentials.find(&reference, None).expect("it is found") {
            Login::Password { user, .. } => Some(user),
            Login::Identity(token) => Some(token),
            Login::Anonymous => None,
        }
    }

    #[test]
    fn the_longest_matching_entry_wins() {
        // dTpw is base64 of `u:p`.
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "r.example": {"username": "host", "password": "x"},
            "r.example/team": {"username": "team", "password": "x"},
            "azure.example": {"auth": "dTpw", "identitytoken": "t"},
            "helper.example": {}
        }}"#;
        let credentials = credentials(text, "config.json");
        assert_eq!(user(&credentials, "nginx").as_deref(), Some("u"));
        assert_eq!(user(&credentials, "r.example/other/app").as_deref(), Some("host"));
        assert_eq!(user(&credentials, "r.example/team/app").as_deref(), Some("team"));
        assert_eq!(user(&credentials, "r.example/teammate/app").as_deref(), Some("host"));
        assert_eq!(user(&credentials, "azure.example/app").as_deref(), Some("t"));
        assert_eq!(user(&credentials, "helper.example/app"), None);
    }

    #[test]
    fn a_named_secret_is_only_taken_from_its_own_file() {
        let credentials = credentials(r#"{"auths": {}}"#, "dockerhub.json");
        let reference = "nginx".parse().expect("a reference");
        let named = |name: &str| credentials.find(&reference, Some(&name.parse().expect("a name")));
        assert!(named("dockerhub").is_ok());
        assert!(matches!(named("other"), Err(CredentialsError::UnknownSecret(_))));
    }
}
