// SPDX-License-Identifier: Apache-2.0

//! Bundles in environments that were written for a single file: where the files go, and whether the
//! environment starts what the bundle has.

use super::Environment;
use crate::artifact::{BundleFacts, BundleForm};
use crate::request::Layering;
use crate::{ArtifactFacts, ArtifactKind};

impl Environment {
    /// Makes it lay down what an artifact is: the files of a bundle go into the directory that any
    /// other artifact's file goes into.
    #[must_use]
    pub fn for_kind(mut self, kind: ArtifactKind) -> Self {
        if kind == ArtifactKind::Bundle {
            self.layering = Layering::Bundle;
            if let Some((directory, file)) = self.destination.rsplit_once('/')
                && file.contains('{')
                && !directory.is_empty()
            {
                self.destination.truncate(directory.len());
            }
        }
        self
    }

    /// Returns whether `auto` may choose it for an artifact, as far as having Java tells. A bundle
    /// that is not recognised needs Java if it has JARs.
    pub(super) fn is_for(&self, facts: &ArtifactFacts) -> bool {
        match facts {
            ArtifactFacts::Bundle(bundle) => self.java.is_some() == bundle.runs_on_java(),
            _ => true,
        }
    }

    fn names(&self, part: &str) -> bool {
        let words = self.entrypoint.iter().chain(&self.command).flatten();
        words.into_iter().any(|word| word.contains(part))
    }
}

/// Says why an environment cannot start a bundle.
pub(super) fn refusal(environment: &Environment, bundle: &BundleFacts) -> Option<String> {
    let starts_java = environment.names("{launch}");
    match &bundle.form {
        BundleForm::Executables { .. } if starts_java => Some(
            "it starts Java, and the bundle has an executable: choose one for executables, such as \
            `static` or `cc`"
                .to_owned(),
        ),
        form if form.is_java() && !starts_java && environment.names("{artifact}") => Some(
            "it starts an executable, and the bundle is started by Java: choose one for Java"
                .to_owned(),
        ),
        _ => None,
    }
}
