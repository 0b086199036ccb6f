// SPDX-License-Identifier: Apache-2.0

//! What a request does to which repositories, and so what a token for it must allow.

use super::repository::Repository;

/// The rights of a request, which its token must allow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Access {
    pub(super) repository: Repository,
    push: bool,
    /// Another repository of the registry whose blobs are also read.
    pub(super) from: Option<String>,
}

impl Access {
    pub(super) fn pull(repository: &Repository) -> Self {
        Self { repository: repository.clone(), push: false, from: None }
    }

    pub(super) fn push(repository: &Repository) -> Self {
        Self { repository: repository.clone(), push: true, from: None }
    }

    /// Mount a blob from another repository, or from the same one.
    pub(super) fn mount(repository: &Repository, from: &str) -> Self {
        let from = (from != repository.reference.repository()).then(|| from.to_owned());
        Self { from, ..Self::push(repository) }
    }

    /// Returns the scopes of a token (distribution specification, "Token Scope Documentation").
    pub(super) fn scopes(&self) -> Vec<String> {
        let name = self.repository.reference.repository();
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{name}:{actions}");
        let from = self.from.iter().map(|from| format!("repository:{from}:pull"));
        std::iter::once(own).chain(from).collect()
    }
}
