// SPDX-License-Identifier: Apache-2.0

//! The options of `slipway build` and `slipway submit`, and the build request they make.
//!
//! Values are passed on unchanged. The dispatcher checks them all at once and reports mistakes by
//! field. What can be seen to be wrong without artifact and catalogue is refused before the upload.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use slipway_proto::{Digest, Platform};
use slipway_service::telemetry::TelemetryConfig;
use slipway_worker::RegistryConfig;

use super::value;

const BUILD_EXAMPLES: &str = "\
Examples:
  slipway build app.jar --image registry.example/team/app:1.4 --follow
  slipway build shop.war --image registry.example/team/shop:2 --tag latest --env A=1 --env B=2
  slipway build tool --image registry.example/team/tool:1 --environment static --local
  slipway build app.jar --image app:1.4 --to docker-archive:- | docker load
  cat tool | slipway build - --name tool --image registry.example/team/tool:1";

const SUBMIT_EXAMPLES: &str = "\
Examples:
  slipway submit app.jar --image registry.example/team/app:1.4
  id=$(slipway submit app.jar --image registry.example/team/app:1.4) && slipway logs -f \"$id\"";

/// The options of `slipway build`.
#[derive(Debug, Args)]
#[command(after_help = BUILD_EXAMPLES)]
pub struct BuildArgs {
    /// The artifact: a JAR, a WAR, a Linux executable, or a directory or archive (.tar, .tar.gz,
    /// .tgz, .zip) with all that a program needs; - for standard input, with --name
    pub file: PathBuf,
    /// The same program for further platforms, one executable each
    #[arg(value_name = "FILE")]
    pub further: Vec<PathBuf>,
    /// What to build.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Show the build's log while it runs, instead of only its stages
    #[arg(short, long)]
    pub follow: bool,
    /// Build and push from this process, without a server
    #[arg(long, conflicts_with_all = ["idempotency_key", "supersede_key"])]
    pub local: bool,
    /// Build without a server and write the image to a directory, file or pipe instead of a
    /// registry; docker-archive:- is standard output. The image may have a short name, as app:1.4
    #[arg(
        long,
        value_name = "oci:DIR|docker-archive:FILE",
        value_parser = value::target,
        conflicts_with_all = ["local", "idempotency_key", "supersede_key"]
    )]
    pub to: Option<Target>,
    /// The options of builds without a server.
    #[command(flatten)]
    pub local_options: LocalArgs,
}

impl BuildArgs {
    /// Returns whether the image goes to standard output.
    #[must_use]
    pub fn writes_to_stdout(&self) -> bool {
        self.to.as_ref().is_some_and(|target| target.of_worker().is_stdout())
    }
}

/// The options of `slipway submit`.
#[derive(Debug, Args)]
#[command(after_help = SUBMIT_EXAMPLES)]
pub struct SubmitArgs {
    /// The artifact: a JAR, a WAR, a Linux executable, or a directory or archive (.tar, .tar.gz,
    /// .tgz, .zip) with all that a program needs; - for standard input, with --name
    pub file: PathBuf,
    /// The same program for further platforms, one executable each
    #[arg(value_name = "FILE")]
    pub further: Vec<PathBuf>,
    /// What to build.
    #[command(flatten)]
    pub request: RequestArgs,
}

/// Where a build without a server writes its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory in the OCI image layout.
    OciLayout(PathBuf),
    /// A tar file as `docker load` reads it.
    DockerArchive(PathBuf),
}

impl Target {
    /// Returns the target of the pipeline.
    pub(crate) fn of_worker(&self) -> slipway_worker::local::Target {
        use slipway_worker::local::Target as Place;
        match self {
            Self::OciLayout(path) => Place::OciLayout(path.clone()),
            Self::DockerArchive(path) => Place::DockerArchive(path.clone()),
        }
    }
}

impl std::fmt::Display for Target {
    /// Writes the target in the form of the option, which skopeo and podman also take.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OciLayout(path) => write!(f, "oci:{}", path.display()),
            Self::DockerArchive(path) => write!(f, "docker-archive:{}", path.display()),
        }
    }
}

/// The options of builds without a server.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Options of builds without a server (--local, --to)")]
pub struct LocalArgs {
    /// Catalogue file that adds environments to the built-in ones
    #[arg(long, value_name = "FILE", env = "SLIPWAY_ENVIRONMENTS")]
    pub environments: Option<PathBuf>,
    /// Where layers of base images are kept (default: $XDG_CACHE_HOME/slipway or ~/.cache/slipway)
    #[arg(long, value_name = "DIRECTORY", env = "SLIPWAY_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How large that may become, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        env = "SLIPWAY_CACHE_BYTES",
        default_value_t = super::CACHE_BYTES
    )]
    pub cache_bytes: u64,
    /// Time of files and images in seconds since the epoch
    #[arg(
        long,
        env = "SOURCE_DATE_EPOCH",
        value_name = "SECONDS",
        default_value_t = slipway_worker::assemble::DEFAULT_EPOCH,
        allow_negative_numbers = true
    )]
    pub source_date_epoch: i64,
    /// How registries are reached.
    #[command(flatten)]
    #[serde(flatten)]
    pub registries: RegistryConfig,
    /// What is logged.
    #[command(flatten)]
    #[serde(flatten)]
    pub telemetry: TelemetryConfig,
}

/// What to build: the fields of a build request.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What to build")]
pub struct RequestArgs {
    /// Where to push the image: REGISTRY/REPOSITORY:TAG, or without a tag for `latest`
    #[arg(long, value_name = "REFERENCE")]
    pub image: String,
    /// Also tag the image with this, in the same repository; repeatable
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Also push the image to this reference; repeatable
    #[arg(long = "additional-image", value_name = "REFERENCE")]
    pub additional_images: Vec<String>,
    /// The environment; `slipway environments` lists them (default: auto)
    #[arg(long, value_name = "NAME")]
    pub environment: Option<String>,
    /// A base image instead of the environment's, or `scratch`
    #[arg(long, value_name = "REFERENCE")]
    pub base: Option<String>,
    /// Set an environment variable in the image; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::pair)]
    pub env: Vec<(String, String)>,
    /// Set a label of the image; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub labels: Vec<(String, String)>,
    /// Set an annotation of the manifest; repeatable
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub annotations: Vec<(String, String)>,
    /// Declare a port, as 8080 or 53/udp; repeatable
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<String>,
    /// What starts the image instead of the environment's command: words as a shell divides
    /// them, or a list in JSON; {artifact} is the artifact's path, {launch} what starts a JAR
    #[arg(long, value_name = "COMMAND", value_parser = value::words)]
    pub entrypoint: Option<value::Words>,
    /// Append an argument to the command; repeatable
    #[arg(long = "arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// The user to run as, as 1000:1000 or a name
    #[arg(long, value_name = "USER:GROUP")]
    pub user: Option<String>,
    /// The platform of the image, as linux/arm64 or linux/arm/v7, or several with commas between
    /// them (default: the artifact's); repeatable
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// The executable of a further platform, where the file does not tell; repeatable
    #[arg(
        long = "platform-artifact",
        value_name = "OS/ARCH=FILE",
        value_parser = value::platform_file
    )]
    pub platform_artifacts: Vec<(Platform, PathBuf)>,
    /// How urgent the build is: high, normal or low
    #[arg(long)]
    pub priority: Option<String>,
    /// The pool of workers that may take the build
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// The name of the registry credentials
    #[arg(long, value_name = "NAME")]
    pub registry_secret: Option<String>,
    /// The longest time an attempt may take, as 90s, 10m or 1h (default: 10m)
    #[arg(long, value_name = "TIME", value_parser = value::seconds)]
    pub timeout: Option<u64>,
    /// The longest time the build may wait for a worker, or for a registry that limits it, in the
    /// same form (default: 24h)
    #[arg(long, value_name = "TIME", value_parser = value::seconds)]
    pub queue_timeout: Option<u64>,
    /// The longest time an attempt may make no progress, in the same form (default: 2m)
    #[arg(long, value_name = "TIME", value_parser = value::seconds)]
    pub stall_timeout: Option<u64>,
    /// The largest number of attempts (default: 5)
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u64>,
    /// Cancel the project's earlier unfinished builds with this key, such as a branch
    #[arg(long, value_name = "KEY")]
    pub supersede_key: Option<String>,
    /// How layers are stored: gzip, zstd or none (default: gzip)
    #[arg(long, value_name = "FORMAT")]
    pub compression: Option<String>,
    /// Submitting again with the same key returns the same build
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// The artifact's name inside the image (default: the file's)
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    pub filename: Option<String>,
}

impl RequestArgs {
    /// Returns the name that the artifact gets.
    #[must_use]
    pub fn filename(&self, file: &Path) -> String {
        self.filename.clone().unwrap_or_else(|| name_of(file))
    }

    /// Returns the build request for the API, without the options that were not given.
    #[must_use]
    pub fn document(&self, artifact: Digest, file: &Path) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("artifact", artifact.to_string().into());
        put("filename", self.filename(file).into());
        put("image", self.image.clone().into());
        let texts = [
            ("environment", &self.environment),
            ("base", &self.base),
            ("user", &self.user),
            ("priority", &self.priority),
            ("pool", &self.pool),
            ("registry_secret", &self.registry_secret),
            ("supersede_key", &self.supersede_key),
            ("compression", &self.compression),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                put(name, text.clone().into());
            }
        }
        match &self.platform[..] {
            [] => None,
            [platform] => put("platform", platform.clone().into()),
            several => put("platform", several.to_vec().into()),
        };
        let entrypoint = self.entrypoint.as_ref().map(|words| words.0.clone()).unwrap_or_default();
        let lists = [
            ("additional_tags", &self.tags),
            ("additional_images", &self.additional_images),
            ("ports", &self.ports),
            ("args", &self.args),
            ("entrypoint", &entrypoint),
        ];
        for (name, list) in lists {
            if !list.is_empty() {
                put(name, list.clone().into());
            }
        }
        let pairs =
            [("env", &self.env), ("labels", &self.labels), ("annotations", &self.annotations)];
        for (name, pairs) in pairs {
            if !pairs.is_empty() {
                let members = pairs.iter().map(|(key, value)| (key.clone(), value.clone().into()));
                put(name, Value::Object(members.collect()));
            }
        }
        let numbers = [
            ("timeout_s", self.timeout),
            ("queue_timeout_s", self.queue_timeout),
            ("stall_timeout_s", self.stall_timeout),
            ("max_attempts", self.max_attempts),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                put(name, number.into());
            }
        }
        Value::Object(fields)
    }
}

/// Returns the name of a file or directory, which `.` and `..` do not tell.
pub(crate) fn name_of(path: &Path) -> String {
    let real = path.file_name().is_none().then(|| path.canonicalize().ok()).flatten();
    let name = real.as_deref().unwrap_or(path).file_name();
    name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;
    use slipway_proto::submission::FIELDS;

    use super::*;
    use crate::args::{Arguments, Command};

    fn build(line: &str) -> BuildArgs {
        let arguments = Arguments::try_parse_from(line.split_whitespace()).expect("it parses");
        match arguments.command {
            Some(Command::Build(build)) => *build,
            other => panic!("not a build: {other:?}"),
        }
    }

    #[test]
    fn what_was_not_given_is_left_out_of_the_request() {
        let build = build("slipway build dir/app.jar --image r.example/a:1");
        let artifact = Digest::of(b"x");
        assert_eq!(
            build.request.document(artifact, &build.file),
            json!({"artifact": artifact, "filename": "app.jar", "image": "r.example/a:1"})
        );
    }

    #[test]
    fn every_field_of_the_request_has_its_option() {
        let build = build(
            "slipway build x y --platform-artifact linux/s390x=z --image r.example/a:1 --tag latest --additional-image s.example/a:1 \
             --environment java-17 --base b.example/c --env A=b=c --label l=1 --annotation a=2 \
             --port 8080 --port 53/udp --entrypoint run --arg --verbose --user 1000:0 \
             --platform linux/arm64 \
             --priority high --pool arm --registry-secret hub --timeout 2m --max-attempts 3 \
             --queue-timeout 1h --stall-timeout 90 --supersede-key refs/heads/main \
             --filename app.jar --compression zstd",
        );
        let document = build.request.document(Digest::of(b"x"), &build.file);
        let fields = document.as_object().expect("an object");
        let missing: Vec<_> = FIELDS.iter().filter(|name| !fields.contains_key(**name)).collect();
        // The artifacts are known once they are uploaded.
        assert_eq!(missing, [&"platform_artifacts", &"$schema"]);
        assert_eq!(build.further, [PathBuf::from("y")]);
        assert_eq!(build.request.platform_artifacts.len(), 1);
        assert_eq!(document["filename"], "app.jar");
        assert_eq!(document["compression"], "zstd");
        assert_eq!(document["env"], json!({"A": "b=c"}));
        assert_eq!(document["ports"], json!(["8080", "53/udp"]));
        assert_eq!(document["args"], json!(["--verbose"]));
        assert_eq!(document["entrypoint"], json!(["run"]));
        assert_eq!(document["timeout_s"], 120);
        assert_eq!(document["queue_timeout_s"], 3600);
        assert_eq!(document["stall_timeout_s"], 90);
        assert_eq!(document["supersede_key"], "refs/heads/main");
    }

    #[test]
    fn an_image_goes_to_one_place_and_a_local_one_supersedes_nothing() {
        let line = "slipway build a.jar --image r.example/a --local --to oci:x";
        assert!(Arguments::try_parse_from(line.split_whitespace()).is_err());
        let line = "slipway build a.jar --image r.example/a --local --supersede-key main";
        assert!(Arguments::try_parse_from(line.split_whitespace()).is_err());
        let to = build("slipway build a.jar --image r.example/a --to oci:x").to;
        assert_eq!(to, Some(Target::OciLayout("x".into())));
    }
}
