// SPDX-License-Identifier: Apache-2.0

//! Which platforms an image is for, and what the image of each is made of.
//!
//! An archive runs on every platform, so its images share the layers and differ in the base. An
//! executable runs on one, so each platform has its own.

use std::collections::BTreeMap;

use super::{FieldError, Submission};
use crate::artifact::ElfFacts;
use crate::environment::{Catalogue, Choice};
use crate::request::{Artifact, PlatformPart};
use crate::{ArtifactFacts, Digest, Platform};

/// The field of the artifacts that are for one platform each.
pub(super) const FIELD: &str = "platform_artifacts";

/// What the image of each platform is made of. Sorted, so that the order in which a request names
/// its platforms does not change the index.
pub(super) type Parts = BTreeMap<Platform, PlatformPart>;

impl Submission {
    /// Returns the artifacts that it names beside the main one.
    pub fn further_artifacts(&self) -> impl Iterator<Item = Digest> {
        self.platform_artifacts.values().copied()
    }

    /// Returns the mistakes of naming artifacts that were not uploaded.
    pub(super) fn missing_artifacts(&self) -> impl Iterator<Item = FieldError> {
        let missing =
            self.platform_artifacts.iter().filter(|(_, digest)| !self.further.contains_key(digest));
        missing.map(|(platform, digest)| {
            let detail = format!("the project has no artifact {digest}: upload it first");
            FieldError::new(&format!("{FIELD}.{platform}"), "artifact_not_found", detail)
        })
    }

    /// Returns the parts of the image, of which there is at least one if there are no mistakes.
    /// `choice` is the environment of the main artifact.
    pub(super) fn parts(
        &self,
        artifact: &Artifact,
        facts: &ArtifactFacts,
        choice: &Choice,
        catalogue: &Catalogue,
        errors: &mut Vec<FieldError>,
    ) -> Parts {
        match facts.executable() {
            Some(elf) => {
                // A platform that is named with its variant is the image's.
                let named =
                    |platform: &&Platform| platform.variant.is_some() && runs_on(elf, **platform);
                let platform = self.platforms.iter().find(named);
                let platform = platform.copied().unwrap_or_else(|| elf.platform());
                let own = self.part(platform, artifact.clone(), choice);
                self.executables((own, elf), catalogue, errors)
            }
            None => self.archives(artifact, choice, errors),
        }
    }

    fn archives(
        &self,
        artifact: &Artifact,
        choice: &Choice,
        errors: &mut Vec<FieldError>,
    ) -> Parts {
        if !self.platform_artifacts.is_empty() {
            let detail = format!(
                "the artifact is a {}, which runs on every platform: name the platforms in \
                `platform`, and leave this field out",
                artifact.kind
            );
            errors.push(FieldError::new(FIELD, "not_an_executable", detail));
        }
        let default = [Platform::LINUX_AMD64];
        let platforms = if self.platforms.is_empty() { &default } else { &self.platforms[..] };
        let part =
            |platform: &Platform| (*platform, self.part(*platform, artifact.clone(), choice));
        platforms.iter().map(part).collect()
    }

    fn executables(
        &self,
        (own, elf): (PlatformPart, &ElfFacts),
        catalogue: &Catalogue,
        errors: &mut Vec<FieldError>,
    ) -> Parts {
        let mut parts = Parts::new();
        for (platform, digest) in &self.platform_artifacts {
            // One that was not uploaded is a mistake already.
            let Some(uploaded) = self.further.get(digest) else { continue };
            let mut refuse = |code: &str, detail: String| {
                errors.push(FieldError::new(&format!("{FIELD}.{platform}"), code, detail));
            };
            let uploaded = self.narrowed(uploaded);
            let Some(further) = uploaded.facts.executable() else {
                let kind = uploaded.facts.kind();
                refuse("not_an_executable", format!("the artifact is a {kind}, no executable"));
                continue;
            };
            if *platform == own.platform {
                let detail = format!("`artifact` is the executable for {platform} already");
                refuse("duplicate_platform", detail);
            } else if !runs_on(further, *platform) {
                let detail =
                    format!("the executable is for {}, not {platform}", further.platform());
                refuse("platform_mismatch", detail);
            }
            match self.environment_for(&uploaded.facts, catalogue) {
                Ok(choice) => {
                    let artifact = Artifact {
                        digest: *digest,
                        size_bytes: uploaded.size_bytes,
                        kind: uploaded.facts.kind(),
                        // Every image has it at the same path.
                        filename: own.artifact.filename.clone(),
                    };
                    parts.insert(*platform, self.part(*platform, artifact, &choice));
                }
                Err(error) => refuse("environment_unsuitable", error.to_string()),
            }
        }
        self.compare_with_request(&own, elf, errors);
        parts.insert(own.platform, own);
        parts
    }

    /// Compares the executables with the platforms that the request names, if it names any.
    fn compare_with_request(
        &self,
        own: &PlatformPart,
        elf: &ElfFacts,
        errors: &mut Vec<FieldError>,
    ) {
        let own = own.platform;
        let mut refuse = |detail: String| {
            errors.push(FieldError::new("platform", "platform_mismatch", detail));
        };
        for platform in &self.platforms {
            if runs_on(elf, *platform) || self.platform_artifacts.contains_key(platform) {
                continue;
            }
            refuse(if self.platforms.len() == 1 && self.platform_artifacts.is_empty() {
                format!(
                    "the executable is for {own}, not {platform}: build it for that platform, or \
                    leave the field out"
                )
            } else {
                format!(
                    "there is no executable for {platform}: name one in `{FIELD}`, or leave the \
                    platform out"
                )
            });
        }
        let named = self.platform_artifacts.keys().chain([&own]);
        for platform in named.filter(|_| !self.platform_artifacts.is_empty()) {
            let is_named = self.platforms.contains(platform)
                || *platform == own && self.platforms.iter().any(|named| runs_on(elf, *named));
            if !self.platforms.is_empty() && !is_named {
                refuse(format!(
                    "there is an executable for {platform}, which the field does not name: name \
                    it, or leave the field out"
                ));
            }
        }
    }

    fn part(&self, platform: Platform, artifact: Artifact, choice: &Choice) -> PlatformPart {
        let environment = choice.environment.clone().for_kind(artifact.kind);
        PlatformPart { platform, artifact, recipe: environment.recipe(self.base.clone()) }
    }
}

/// Returns whether an executable runs on a platform. One that is named without a variant stands for
/// any.
fn runs_on(elf: &ElfFacts, platform: Platform) -> bool {
    let own = elf.platform();
    match platform.variant {
        Some(_) => platform.rank(own, false).is_some(),
        None => platform.architecture == own.architecture,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::artifact::JarFacts;
    use crate::platform::Architecture;
    use crate::submission::Uploaded;
    use crate::{BuildId, BuildRequest};

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn executable(architecture: Architecture, interpreter: Option<&str>) -> Uploaded {
        let facts = ArtifactFacts::Binary(ElfFacts::new(architecture, interpreter));
        Uploaded { size_bytes: 7, filename: "tool".into(), facts }
    }

    fn jar() -> Uploaded {
        let facts = JarFacts { main_class: Some("Main".into()), ..JarFacts::default() };
        Uploaded { size_bytes: 7, filename: "a.jar".into(), facts: ArtifactFacts::Jar(facts) }
    }

    fn accept(
        fields: &Value,
        uploaded: &Uploaded,
        further: &[(&str, Uploaded)],
    ) -> Result<BuildRequest, Vec<(String, String)>> {
        let mut document = json!({"artifact": digest("main"), "image": "r.example/a:1"});
        let members = document.as_object_mut().expect("an object");
        members.extend(fields.as_object().expect("an object").clone());
        let further: HashMap<Digest, Uploaded> =
            further.iter().map(|(name, uploaded)| (digest(name), uploaded.clone())).collect();
        let project = "team".parse().expect("a name");
        let mut submission = Submission::read(&document);
        submission.further = further;
        submission
            .accept(BuildId::fresh(), project, Some(uploaded), &Catalogue::default())
            .map_err(|errors| errors.into_iter().map(|e| (e.field, e.code)).collect())
    }

    fn names(request: &BuildRequest) -> Vec<String> {
        request.platforms().map(|platform| platform.to_string()).collect()
    }

    #[test]
    fn an_archive_is_for_every_platform_that_is_named_in_any_order() {
        let list = json!({"platform": ["linux/arm64", "linux/amd64", "linux/arm64"]});
        let request = accept(&list, &jar(), &[]).expect("it is accepted");
        assert_eq!(names(&request), ["linux/amd64", "linux/arm64"]);
        let single = request.for_each_platform();
        assert_eq!(names(&single[1]), ["linux/arm64"]);
        assert_eq!(single[1].artifact, request.artifact);
        let one = accept(&json!({"platform": "linux/arm64"}), &jar(), &[]).expect("accepted");
        assert_eq!(names(&one), ["linux/arm64"]);
        assert!(one.further_platforms.is_empty());
        let none = accept(&json!({"platform": []}), &jar(), &[]).expect("accepted");
        assert_eq!(names(&none), ["linux/amd64"]);
    }

    #[test]
    fn each_executable_gets_its_own_environment_and_the_name_of_the_first() {
        let amd64 = executable(Architecture::Amd64, Some("/lib64/ld-linux-x86-64.so.2"));
        let arm64 = executable(Architecture::Arm64, None);
        let fields = json!({"platform_artifacts": {"linux/arm64": digest("arm")}});
        let request = accept(&fields, &amd64, &[("arm", arm64)]).expect("it is accepted");
        assert_eq!(names(&request), ["linux/amd64", "linux/arm64"]);
        let [first, second] = &request.for_each_platform()[..] else { panic!("two") };
        assert_eq!((&*first.recipe.environment, &*second.recipe.environment), ("cc", "static"));
        assert_eq!(second.artifact.digest, digest("arm"));
        assert_eq!(second.artifact.filename, first.artifact.filename);
    }

    /// Fields of a request, further uploads, and the mistakes by field and code.
    type Case<'a> = (Value, &'a [(&'a str, Uploaded)], &'a [(&'a str, &'a str)]);

    #[test]
    fn executables_that_do_not_fit_what_is_asked_are_refused_by_field() {
        let amd64 = executable(Architecture::Amd64, None);
        let arm64 = || ("arm", executable(Architecture::Arm64, None));
        let arm = digest("arm");
        let cases: [Case<'_>; 7] = [
            (
                json!({"platform": ["linux/amd64", "linux/arm64"]}),
                &[],
                &[("platform", "platform_mismatch")],
            ),
            (
                json!({"platform_artifacts": {"linux/arm64": arm}}),
                &[],
                &[("platform_artifacts.linux/arm64", "artifact_not_found")],
            ),
            (
                json!({"platform_artifacts": {"linux/s390x": arm}}),
                &[arm64()],
                &[("platform_artifacts.linux/s390x", "platform_mismatch")],
            ),
            (
                json!({"platform_artifacts": {"linux/amd64": arm}}),
                &[arm64()],
                &[("platform_artifacts.linux/amd64", "duplicate_platform")],
            ),
            (
                json!({"platform_artifacts": {"linux/arm64": arm}}),
                &[("arm", jar())],
                &[("platform_artifacts.linux/arm64", "not_an_executable")],
            ),
            (
                json!({"platform": "linux/amd64", "platform_artifacts": {"linux/arm64": arm}}),
                &[arm64()],
                &[("platform", "platform_mismatch")],
            ),
            (
                json!({"platform_artifacts": {"windows": arm, "linux/arm64": 1}}),
                &[],
                &[
                    ("platform_artifacts.linux/arm64", "wrong_type"),
                    ("platform_artifacts.windows", "invalid_platform"),
                ],
            ),
        ];
        for (fields, further, expected) in cases {
            let mut found = accept(&fields, &amd64, further).expect_err("it is refused");
            found.sort();
            let expected: Vec<_> =
                expected.iter().map(|(f, c)| ((*f).to_owned(), (*c).to_owned())).collect();
            assert_eq!(found, expected, "{fields}");
        }
        let fields = json!({"platform_artifacts": {"linux/arm64": arm}});
        let refused = accept(&fields, &jar(), &[arm64()]).expect_err("a JAR is for all");
        assert_eq!(refused, [(FIELD.to_owned(), "not_an_executable".to_owned())]);
    }
}
