// SPDX-License-Identifier: Apache-2.0

//! A build request as a client writes it, and the checks that make it a [`BuildRequest`].
//!
//! Read by hand instead of by serde: serde stops at the first mistake, and a client should see all
//! of them at once, by field.

mod platforms;
mod reader;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::artifact::BundleForm;
use crate::environment::{AUTO, Catalogue, Choice, ChooseError};
use crate::id::SecretName;
use crate::request::{Artifact, Base, Compression, Note, PlatformPart, Port};
use crate::{
    ArtifactFacts, BuildId, BuildRequest, Digest, Platform, PoolName, Priority, ProjectName,
    Reference, codec,
};
use platforms::Parts;
use reader::Reader;

/// The fields of a request, in the order of the documentation.
pub const FIELDS: [&str; 26] = [
    "artifact",
    "filename",
    "image",
    "additional_tags",
    "additional_images",
    "environment",
    "base",
    "env",
    "labels",
    "annotations",
    "ports",
    "entrypoint",
    "args",
    "user",
    "platform",
    "platform_artifacts",
    "priority",
    "pool",
    "registry_secret",
    "timeout_s",
    "max_attempts",
    "queue_timeout_s",
    "stall_timeout_s",
    "supersede_key",
    "compression",
    "$schema",
];

/// Bounds of the numeric fields: an attempt takes at most a day, and a build has at most 20
/// attempts.
const TIMEOUT_S: std::ops::RangeInclusive<u64> = 1..=86_400;
const MAX_ATTEMPTS: std::ops::RangeInclusive<u64> = 1..=20;
/// A build waits at most two days, because its record is kept for three.
const QUEUE_TIMEOUT_S: std::ops::RangeInclusive<u64> = 1..=172_800;
/// A day: nobody waits for an image longer than that.
const DEFAULT_QUEUE_TIMEOUT_S: u32 = 86_400;
/// Two minutes: longer than any pause of a healthy registry.
const DEFAULT_STALL_TIMEOUT_S: u32 = 120;
/// More references than this in one build are a mistake.
const MAX_REFERENCES: usize = 32;

/// A mistake in one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field, as `image` or `env.PATH`; empty for the document as a whole.
    pub field: String,
    /// A stable code.
    pub code: String,
    /// What is wrong and what to do.
    pub detail: String,
}

impl FieldError {
    /// Makes a mistake of a field.
    #[must_use]
    pub fn new(field: &str, code: &str, detail: String) -> Self {
        Self { field: field.to_owned(), code: code.to_owned(), detail }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.detail);
        }
        write!(f, "{}: {}", self.field, self.detail)
    }
}

/// A request as far as it could be read, with every mistake found so far.
#[derive(Debug, Clone)]
pub struct Submission {
    artifact: Option<Digest>,
    filename: Option<String>,
    image: Option<Reference>,
    additional: Vec<Reference>,
    environment: String,
    base: Option<Base>,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<Port>,
    /// Empty where the environment's counts.
    entrypoint: Vec<String>,
    args: Vec<String>,
    user: Option<String>,
    platforms: Vec<Platform>,
    platform_artifacts: BTreeMap<Platform, Digest>,
    /// What was read from the artifacts of `platform_artifacts`.
    further: HashMap<Digest, Uploaded>,
    priority: Priority,
    pool: PoolName,
    registry_secret: Option<SecretName>,
    timeout_s: u32,
    max_attempts: u32,
    queue_timeout_s: u32,
    stall_timeout_s: u32,
    supersede_key: Option<String>,
    compression: Compression,
    digest: Digest,
    errors: Vec<FieldError>,
}

/// The uploaded artifact that a submission names.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The name it was uploaded under.
    pub filename: String,
    /// What was read from it.
    pub facts: ArtifactFacts,
}

impl Submission {
    /// Reads a request. Mistakes are kept, and [`accept`](Self::accept) reports them together with
    /// those that it finds itself.
    #[must_use]
    pub fn read(document: &Value) -> Self {
        let empty = Map::new();
        let mut reader = Reader { fields: &empty, errors: Vec::new() };
        match document {
            Value::Object(fields) => reader.fields = fields,
            _ => reader.mistake("", "not_an_object", "the request must be a JSON object"),
        }
        reader.refuse_unknown();
        if !document.is_object() {
            return Self::assemble(reader, document);
        }
        for required in ["artifact", "image"] {
            if !reader.fields.contains_key(required) {
                reader.mistake(required, "missing", "is required");
            }
        }
        Self::assemble(reader, document)
    }

    fn assemble(mut reader: Reader<'_>, document: &Value) -> Self {
        let image = reader.text("image").and_then(|text| {
            reader.keep("image", "invalid_reference", Reference::parse_target(&text))
        });
        let mut additional = Vec::new();
        for (index, tag) in reader.texts("additional_tags").into_iter().enumerate() {
            let field = format!("additional_tags.{index}");
            let checked = match &image {
                Some(image) => image.with_tag(&tag),
                // Without an image the tag is still checked, against any repository.
                None => Reference::parse_target("registry.invalid/x")
                    .and_then(|stand_in| stand_in.with_tag(&tag)),
            };
            additional.extend(reader.keep(&field, "invalid_tag", checked));
        }
        for (index, text) in reader.texts("additional_images").into_iter().enumerate() {
            let field = format!("additional_images.{index}");
            let parsed = Reference::parse_target(&text);
            additional.extend(reader.keep(&field, "invalid_reference", parsed));
        }
        if additional.len() >= MAX_REFERENCES {
            let detail = format!("a build has at most {MAX_REFERENCES} references");
            reader.mistake("additional_tags", "too_many", &detail);
        }
        let base = reader.text("base").and_then(|text| {
            if text == "scratch" {
                return Some(Base::Scratch);
            }
            reader.keep("base", "invalid_reference", text.parse().map(Base::Image))
        });
        let env = reader.pairs("env", "invalid_variable", is_variable_name, VARIABLE_RULE);
        let labels = reader.pairs("labels", "invalid_label", is_key, KEY_RULE);
        let annotations = reader.pairs("annotations", "invalid_annotation", is_key, KEY_RULE);
        let user = reader.text("user");
        if user.as_deref().is_some_and(|user| !is_user(user)) {
            reader.mistake(
                "user",
                "invalid_user",
                "write a user, or user:group, by name or number, as in 1000:1000",
            );
        }
        let filename = reader.text("filename");
        if filename.as_deref().is_some_and(|name| !is_filename(name)) {
            reader.mistake("filename", "invalid_filename", FILENAME_RULE);
        }
        let supersede_key = reader.text("supersede_key");
        if supersede_key.as_deref().is_some_and(|key| !is_supersede_key(key)) {
            reader.mistake("supersede_key", "invalid_supersede_key", SUPERSEDE_KEY_RULE);
        }
        Self {
            artifact: reader.parsed("artifact", "invalid_digest"),
            filename,
            image,
            additional,
            environment: reader.text("environment").unwrap_or_else(|| AUTO.to_owned()),
            base,
            env,
            labels,
            annotations,
            ports: reader.ports(),
            entrypoint: reader.texts("entrypoint"),
            args: reader.texts("args"),
            user,
            platforms: reader.platforms(),
            platform_artifacts: reader.platform_artifacts(),
            further: HashMap::new(),
            priority: reader.priority(),
            pool: reader.parsed("pool", "invalid_name").unwrap_or_default(),
            registry_secret: reader.parsed("registry_secret", "invalid_name"),
            timeout_s: reader.number("timeout_s", TIMEOUT_S).unwrap_or(600),
            max_attempts: reader.number("max_attempts", MAX_ATTEMPTS).unwrap_or(5),
            queue_timeout_s: reader
                .number("queue_timeout_s", QUEUE_TIMEOUT_S)
                .unwrap_or(DEFAULT_QUEUE_TIMEOUT_S),
            stall_timeout_s: reader
                .number("stall_timeout_s", TIMEOUT_S)
                .unwrap_or(DEFAULT_STALL_TIMEOUT_S),
            supersede_key,
            compression: reader.compression(),
            digest: canonical_digest(document),
            errors: reader.errors,
        }
    }

    /// Returns the mistakes that show without the artifact and the catalogue.
    #[must_use]
    pub fn mistakes(&self) -> &[FieldError] {
        &self.errors
    }

    /// Returns the artifact it names, if that could be read.
    #[must_use]
    pub fn artifact(&self) -> Option<Digest> {
        self.artifact
    }

    /// Takes what was read from a further artifact.
    #[must_use]
    pub fn with_further(mut self, digest: Digest, uploaded: Uploaded) -> Self {
        self.further.insert(digest, uploaded);
        self
    }

    /// Returns the pool it is for; the default one if none could be read.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// Returns the digest of what the client sent, independent of spacing and member order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Makes the build request, after checking the submission against the artifact and the
    /// catalogue.
    ///
    /// `uploaded` is `None` when the project has no artifact of that digest. The further artifacts
    /// are told by [`with_further`](Self::with_further).
    ///
    /// # Errors
    ///
    /// Returns every mistake of the submission.
    pub fn accept(
        mut self,
        build: BuildId,
        project: ProjectName,
        uploaded: Option<&Uploaded>,
        catalogue: &Catalogue,
    ) -> Result<BuildRequest, Vec<FieldError>> {
        let mut errors = std::mem::take(&mut self.errors);
        let narrowed = uploaded.map(|uploaded| self.narrowed(uploaded));
        let uploaded = narrowed.as_ref();
        errors.extend(uploaded.and_then(|uploaded| self.no_start(&uploaded.facts)));
        let choice = self.choose(uploaded, catalogue, &mut errors);
        errors.extend(self.missing_artifacts());
        let complete = (self.artifact, self.image.take(), uploaded, choice);
        let (Some(digest), Some(image), Some(uploaded), Some(choice)) = complete else {
            return Err(errors);
        };
        let artifact = Artifact {
            digest,
            size_bytes: uploaded.size_bytes,
            kind: choice.kind,
            filename: self.filename.take().unwrap_or_else(|| uploaded.filename.clone()),
        };
        let parts = self.parts(&artifact, &uploaded.facts, &choice, catalogue, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let request = self.request(build, project, image, parts, choice.notes);
        if let Err(error) = codec::encode(&request) {
            let detail = format!("{error}: shorten env, labels, annotations or args");
            errors.push(FieldError::new("", "too_large", detail));
        }
        if errors.is_empty() { Ok(request) } else { Err(errors) }
    }

    /// Returns the environment that suits the artifact. Of an artifact that was not uploaded it
    /// checks only that a named environment exists.
    fn choose(
        &self,
        uploaded: Option<&Uploaded>,
        catalogue: &Catalogue,
        errors: &mut Vec<FieldError>,
    ) -> Option<Choice> {
        let Some(uploaded) = uploaded else {
            if let Some(digest) = self.artifact {
                let detail = format!("the project has no artifact {digest}: upload it first");
                errors.push(FieldError::new("artifact", "artifact_not_found", detail));
            }
            if self.environment != AUTO
                && let Err(error) = catalogue.find(&self.environment)
            {
                let detail = error.to_string();
                errors.push(FieldError::new("environment", "environment_not_found", detail));
            }
            return None;
        };
        let filename = self.filename.as_ref().unwrap_or(&uploaded.filename);
        let facts = match uploaded.facts.named(filename) {
            Ok(facts) => facts,
            Err(mismatch) => {
                errors.push(FieldError::new("filename", "kind_mismatch", mismatch.to_string()));
                return None;
            }
        };
        match self.environment_for(&facts, catalogue) {
            Ok(found) => Some(found),
            Err(error) => {
                let code = match error {
                    ChooseError::NotFound { .. } => "environment_not_found",
                    _ => "environment_unsuitable",
                };
                errors.push(FieldError::new("environment", code, error.to_string()));
                None
            }
        }
    }

    /// Returns the environment that suits an artifact, started as the request says.
    fn environment_for(
        &self,
        facts: &ArtifactFacts,
        catalogue: &Catalogue,
    ) -> Result<Choice, ChooseError> {
        if self.entrypoint.is_empty() {
            return catalogue.choose(&self.environment, facts, self.base.is_some());
        }
        let catalogue = catalogue.with_entrypoint(&self.entrypoint);
        catalogue.choose(&self.environment, facts, self.base.is_some())
    }

    /// Returns an artifact with the facts of the program that is started.
    fn narrowed(&self, uploaded: &Uploaded) -> Uploaded {
        let filename = self.filename.as_deref().unwrap_or(&uploaded.filename);
        let facts = uploaded.facts.narrowed(filename, &self.entrypoint).into_owned();
        Uploaded { facts, ..uploaded.clone() }
    }

    /// Returns the mistake of leaving out what an artifact does not tell: how it is started, or what
    /// it runs on.
    fn no_start(&self, facts: &ArtifactFacts) -> Option<FieldError> {
        let ArtifactFacts::Bundle(bundle) = facts else { return None };
        if self.entrypoint.is_empty() {
            let why = bundle.no_start()?;
            return Some(FieldError::new("entrypoint", "entrypoint_missing", why));
        }
        let is_open = self.environment == AUTO && self.base.is_none();
        let tells = bundle.form != BundleForm::Unknown || bundle.java_release.is_some();
        (is_open && !tells).then(|| {
            let detail = "nothing in the bundle tells what it runs on: name an environment, or give \
                a `base`";
            FieldError::new("environment", "environment_unsuitable", detail.to_owned())
        })
    }

    fn request(
        self,
        build: BuildId,
        project: ProjectName,
        image: Reference,
        mut parts: Parts,
        notes: Vec<Note>,
    ) -> BuildRequest {
        let (platform, PlatformPart { artifact, recipe, .. }) =
            parts.pop_first().expect("an image has at least one platform");
        let mut references = vec![image];
        for reference in self.additional {
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        BuildRequest {
            build,
            project,
            artifact,
            references,
            recipe,
            env: self.env,
            labels: self.labels,
            annotations: self.annotations,
            ports: self.ports,
            args: self.args,
            user: self.user,
            platform,
            priority: self.priority,
            pool: self.pool,
            registry_secret: self.registry_secret,
            timeout_s: self.timeout_s,
            max_attempts: self.max_attempts,
            queue_timeout_s: self.queue_timeout_s,
            stall_timeout_s: self.stall_timeout_s,
            supersede_key: self.supersede_key,
            retry_of: None,
            compression: self.compression,
            notes,
            further_platforms: parts.into_values().collect(),
        }
    }
}

/// The rule for file names, for messages.
pub const FILENAME_RULE: &str = "a file name has 1 to 200 characters, no `/`, `\\` or control \
    character, and is not `.` or `..`";

/// Returns whether a text may name an artifact's file. The name becomes a path inside images.
#[must_use]
pub fn is_filename(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|character| matches!(character, '/' | '\\') || character.is_control())
}

const VARIABLE_RULE: &str =
    "a variable's name has letters, digits, `_`, `.` and `-`, and does not start with a digit";

fn is_variable_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

const KEY_RULE: &str = "a key has 1 to 255 printable characters without spaces";

fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

const SUPERSEDE_KEY_RULE: &str = "a supersede key has 1 to 255 characters, none of them a control \
    character, as in refs/heads/main";

fn is_supersede_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && !key.chars().any(char::is_control)
}

fn is_user(user: &str) -> bool {
    let part = |part: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        (1..=64).contains(&part.len()) && part.bytes().all(word)
    };
    user.split_once(':').map_or_else(|| part(user), |(name, group)| part(name) && part(group))
}

/// Digests a document with its members sorted by name, so that order and spacing do not matter.
fn canonical_digest(document: &Value) -> Digest {
    fn write(value: &Value, text: &mut String) {
        match value {
            Value::Object(members) => {
                let sorted: BTreeMap<&String, &Value> = members.iter().collect();
                text.push('{');
                for (name, member) in sorted {
                    text.push_str(&Value::from(name.as_str()).to_string());
                    text.push(':');
                    write(member, text);
                    text.push(',');
                }
                text.push('}');
            }
            Value::Array(values) => {
                text.push('[');
                for value in values {
                    write(value, text);
                    text.push(',');
                }
                text.push(']');
            }
            scalar => text.push_str(&scalar.to_string()),
        }
    }
    let mut text = String::new();
    write(document, &mut text);
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests;
