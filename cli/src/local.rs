// SPDX-License-Identifier: Apache-2.0

//! `slipway build --local` and `--to`: a build without a server, queue or worker process.
//!
//! The artifact is inspected, the request checked and the image made by the same code as in
//! dispatcher and worker, so the image has the same digest as one that was built through the queue.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use slipway_artifact::{InspectError, KnownFacts, Source as _};
use slipway_proto::api::BuildView;
use slipway_proto::environment::{Catalogue, CatalogueError};
use slipway_proto::outcome::Image;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, Build, BuildId, BuildRequest, Change, Digest, Failure, FieldError, Platform,
    ProjectName, Reference, Submission, Timestamp, WorkerId,
};
use slipway_service::{Exit, directories};
use slipway_worker::RegistryConfig;
use slipway_worker::config::CacheConfig;
use slipway_worker::failure::StageError;
use slipway_worker::local::{self, Artifact};
use slipway_worker::pipeline::{Pipeline, PipelineError};

use crate::args::{BuildArgs, LocalArgs, Target};
use crate::exit::lines;
use crate::input::{ArtifactFile, InputError};
use crate::output::Output;
use crate::pack::Uploadable;
use crate::platforms::{self, PlatformsError};

/// Why a build without a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The artifact cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Standard input cannot be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The image cannot be written to where it should go.
    #[error("cannot write the image to {target}")]
    Target {
        /// Where to.
        target: Target,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not an artifact.
    #[error("{} cannot become an image", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: InspectError,
    },
    /// The files of further platforms cannot be used.
    #[error(transparent)]
    Platforms(#[from] PlatformsError),
    /// The catalogue file cannot be read.
    #[error("cannot read the environment catalogue {}", path.display())]
    ReadCatalogue {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The catalogue file is wrong.
    #[error("the environment catalogue {} is wrong", path.display())]
    Catalogue {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CatalogueError,
    },
    /// The request has mistakes.
    #[error("the build request has mistakes:{}", lines(.0))]
    Refused(Vec<FieldError>),
    /// There is no home directory to keep layers of base images in.
    #[error("there is no home directory to keep a cache in: name a directory with --cache-dir")]
    NoHome,
    /// The cache directory or the credentials cannot be used.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The artifact cannot be read to its end.
    #[error("cannot read {}: {failure}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Why not.
        failure: Failure,
    },
}

impl LocalError {
    /// Returns how the process ends: it is a matter of usage, except where a server would have
    /// refused.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Inspect { .. } | Self::Refused(_) => Exit::Failed,
            Self::Read { .. }
            | Self::Input(_)
            | Self::Target { .. }
            | Self::Platforms(_)
            | Self::Digest { .. }
            | Self::ReadCatalogue { .. }
            | Self::Catalogue { .. }
            | Self::NoHome
            | Self::Pipeline(_) => Exit::Usage,
        }
    }
}

/// Builds an image in this process and returns the build as a dispatcher would show it.
pub(crate) async fn build(
    args: &BuildArgs,
    project: &ProjectName,
    output: &Output,
) -> Result<BuildView, LocalError> {
    if let Some(target) = &args.to {
        check_target(target)?;
    }
    let catalogue = catalogue(args.local_options.environments.as_deref())?;
    let config = config(&args.local_options)?;
    let submission = |digest| Submission::read(&document(args, digest));
    let early = submission(Digest::of(b""));
    if !early.mistakes().is_empty() {
        return Err(LocalError::Refused(early.mistakes().to_vec()));
    }
    let opened = ArtifactFile::open(&args.file, args.request.filename.as_deref()).await?;
    let file = opened.path().to_owned();
    let filename = args.request.filename(&args.file);
    let cache_dir = config.cache.cache_dir.clone();
    // At the same time: one reads the artifact's directory, the other the certificate authorities.
    let inspecting = tokio::task::spawn_blocking({
        let cache_dir = cache_dir.clone();
        move || inspect(&file, &filename, &cache_dir)
    });
    let pipeline = Pipeline::new(&config);
    let (artifact, uploaded) = inspecting.await.unwrap_or_else(|panic| {
        Err(LocalError::Read { path: args.file.clone(), source: std::io::Error::other(panic) })
    })?;
    let pipeline = pipeline?;
    let further = further(args, &cache_dir).await?;
    if !further.is_empty() {
        // Each artifact is told from the others by its digest.
        wait_for_digest(&artifact, &args.file).await?;
    }
    let digests = further.iter().map(|(platform, part)| (*platform, part.digest)).collect();
    let submission = |digest| {
        let mut document = document(args, digest);
        platforms::put(&mut document, &digests);
        let tell = |submission: Submission, part: &FurtherPart| {
            submission.with_further(part.digest, part.uploaded.clone())
        };
        further.values().fold(Submission::read(&document), tell)
    };
    // No check of the request depends on the digest, which is computed while the image is made.
    let some_digest = artifact.digest.now().unwrap_or_else(|| Digest::of(b""));
    let mut request = submission(some_digest)
        .accept(BuildId::fresh(), project.clone(), Some(&uploaded), &catalogue)
        .map_err(LocalError::Refused)?;
    let target = args.to.as_ref().map_or(local::Target::Registry, Target::of_worker);
    let accepted = Timestamp::now();
    let log = |line: &str| output.log(line.trim_end_matches('\n'));
    let artifact_of = |digest: Digest| {
        let part = further.values().find(|part| part.digest == digest);
        part.map_or(&artifact, |part| &part.artifact).clone()
    };
    let artifacts: Vec<Artifact> =
        request.artifacts().map(|artifact| artifact_of(artifact.digest)).collect();
    let built = Box::pin(local::build_local(&pipeline, &request, &artifacts, target, log)).await;
    let digest = wait_for_digest(&artifact, &args.file).await?;
    for artifact in request.artifacts_mut().filter(|artifact| artifact.digest == some_digest) {
        artifact.digest = digest;
    }
    if artifact.file.is_untouched().unwrap_or_default() {
        known_facts(&cache_dir).remember(digest, &uploaded.facts);
    }
    Ok(view(request, submission(digest).digest(), accepted, built))
}

/// The executable of a further platform.
struct FurtherPart {
    artifact: Artifact,
    digest: Digest,
    uploaded: Uploaded,
}

/// Opens and digests the executables of further platforms.
async fn further(
    args: &BuildArgs,
    cache_dir: &Path,
) -> Result<BTreeMap<Platform, FurtherPart>, LocalError> {
    let mut parts = BTreeMap::new();
    for (platform, path) in platforms::find(&args.further, &args.request.platform_artifacts)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (artifact, uploaded) = inspect(&path, &name, cache_dir)?;
        let digest = wait_for_digest(&artifact, &path).await?;
        parts.insert(platform, FurtherPart { artifact, digest, uploaded });
    }
    Ok(parts)
}

async fn wait_for_digest(artifact: &Artifact, path: &Path) -> Result<Digest, LocalError> {
    artifact.digest.wait().await.map_err(|error| {
        let StageError { failure, .. } = error;
        LocalError::Digest { path: path.to_owned(), failure }
    })
}

/// Checks where the image goes before anything is read.
fn check_target(target: &Target) -> Result<(), LocalError> {
    let refused = |source| LocalError::Target { target: target.clone(), source };
    let place = target.of_worker();
    if place.is_stdout() && std::io::stdout().is_terminal() {
        let why = "standard output is a terminal: redirect it, or pipe it into another program";
        return Err(refused(std::io::Error::other(why)));
    }
    place.check().map_err(refused)
}

/// Makes the build request. An image that is pushed nowhere may have a short name.
fn document(args: &BuildArgs, digest: Digest) -> Value {
    let mut document = args.request.document(digest, &args.file);
    if args.to.is_some() {
        let complete = |name: &mut Value| {
            let parsed = name.as_str().map(Reference::parse_name);
            if let Some(Ok(reference)) = parsed {
                *name = reference.to_string().into();
            }
        };
        document.get_mut("image").into_iter().for_each(complete);
        let more = document.get_mut("additional_images").and_then(Value::as_array_mut);
        more.into_iter().flatten().for_each(complete);
    }
    document
}

/// Returns the finished build.
fn view(
    request: BuildRequest,
    submission: Digest,
    accepted: Timestamp,
    built: Result<Image, Failure>,
) -> BuildView {
    let worker: WorkerId = "local".parse().expect("it is a name");
    let epoch = 1;
    let outcome = match built {
        Ok(image) => Change::Succeed { epoch, image: Box::new(image) },
        Err(failure) => Change::Fail { epoch, failure, dead: false },
    };
    let now = Timestamp::now();
    let steps = [
        (Change::Claim { epoch, worker }, accepted),
        (Change::Publish { epoch }, now),
        (outcome, now),
    ];
    let build = Build::accepted(request, submission, accepted);
    let build = steps.into_iter().fold(build, |build, (change, time)| {
        build.apply(&change, time).expect("a new build takes these steps")
    });
    BuildView::from(&build)
}

/// The open artifact, and what a dispatcher would know of it.
type Inspected = (Artifact, Uploaded);

fn inspect(path: &Path, filename: &str, cache_dir: &Path) -> Result<Inspected, LocalError> {
    let read = |source| LocalError::Read { path: path.to_owned(), source };
    // The archive of a directory is open, and needs its name no more.
    let packed = Uploadable::of(path).map_err(read)?;
    let artifact = Artifact::open(packed.path(), cache_dir).map_err(read)?;
    let size_bytes = artifact.file.len();
    let known = artifact.digest.now().and_then(|digest| known_facts(cache_dir).get(digest));
    let facts: ArtifactFacts = match known {
        Some(facts) => facts,
        None => slipway_artifact::inspect(&*artifact.file, filename)
            .map_err(|source| LocalError::Inspect { path: path.to_owned(), source })?,
    };
    Ok((artifact, Uploaded { size_bytes, filename: filename.to_owned(), facts }))
}

/// What was found in the files that images were made from on this machine.
fn known_facts(cache_dir: &Path) -> KnownFacts {
    KnownFacts::in_directory(cache_dir.join("records/facts"))
}

fn catalogue(file: Option<&Path>) -> Result<Catalogue, LocalError> {
    let Some(path) = file else { return Ok(Catalogue::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| LocalError::ReadCatalogue { path: path.to_owned(), source })?;
    Catalogue::default()
        .extended(&text)
        .map_err(|source| LocalError::Catalogue { path: path.to_owned(), source })
}

fn config(args: &LocalArgs) -> Result<slipway_worker::Config, LocalError> {
    let cache_dir =
        args.cache_dir.clone().or_else(directories::user_cache).ok_or(LocalError::NoHome)?;
    Ok(slipway_worker::Config {
        cache: CacheConfig { cache_dir, cache_bytes: args.cache_bytes },
        registries: registries(&args.registries),
        source_date_epoch: args.source_date_epoch,
        ..Default::default()
    })
}

/// Returns how registries are reached from this process.
pub(crate) fn registries(chosen: &RegistryConfig) -> RegistryConfig {
    let docker_configs = docker_configs(&chosen.docker_configs);
    RegistryConfig { docker_configs, ..chosen.clone() }
}

/// Returns the credentials files to use: those that were given, else those of this machine's tools.
fn docker_configs(named: &[PathBuf]) -> Vec<PathBuf> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let docker = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".docker")))
        .map(|directory| directory.join("config.json"));
    let podman = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|directory| PathBuf::from(directory).join("containers/auth.json"));
    docker.into_iter().chain(podman).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use slipway_proto::Reason;
    use slipway_proto::api::StateName;

    use super::*;

    fn request() -> (BuildRequest, Digest) {
        let document = serde_json::json!({
            "artifact": Digest::of(b"x"), "image": "r.example/a:1", "filename": "a"
        });
        let submission = Submission::read(&document);
        let digest = submission.digest();
        let facts = serde_json::from_value(serde_json::json!({
            "kind": "binary", "architecture": "amd64", "interpreter": null
        }));
        let uploaded =
            Uploaded { size_bytes: 1, filename: "a".into(), facts: facts.expect("facts") };
        let project = "team".parse().expect("a name");
        let request = submission
            .accept(BuildId::fresh(), project, Some(&uploaded), &Catalogue::default())
            .expect("it is accepted");
        (request, digest)
    }

    #[test]
    fn a_local_build_looks_like_any_other() {
        let (request, digest) = request();
        let failure = Failure::new(Reason::AssembleFailed, "no");
        let view = view(request, digest, Timestamp::now(), Err(failure.clone()));
        assert_eq!((view.state, view.attempt), (StateName::Failed, 1));
        assert_eq!(view.failure, Some(failure));
        assert!(view.finished_at.is_some() && view.started_at.is_some());
    }

    #[test]
    fn mistakes_stand_on_their_own_lines() {
        let mistake = FieldError { field: "image".into(), code: "x".into(), detail: "no".into() };
        let error = LocalError::Refused(vec![mistake]);
        assert_eq!(error.to_string(), "the build request has mistakes:\n  image: no");
    }
}
