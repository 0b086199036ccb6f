// SPDX-License-Identifier: Apache-2.0

//! The command line.

mod build;
mod build_name;
mod dead;
mod dev;
mod examples;
mod page;
mod value;

use clap::{Args, Parser, Subcommand};
use serde::{Serialize, Serializer};
use slipway_proto::{ProjectName, WorkerId};
use slipway_secret::Secret;
use slipway_service::settings::ConfigArgs;
use url::Url;

use crate::output::Format;

/// The bound of the cache of base images unless configured otherwise, in bytes.
const CACHE_BYTES: u64 = 10 << 30;

pub(crate) use build::name_of;
pub use build::{BuildArgs, LocalArgs, RequestArgs, SubmitArgs, Target};
pub use build_name::BuildName;
pub use dead::DeadCommand;
pub use dev::DevArgs;
pub use page::PageArgs;

/// Turns a JAR, a WAR or a native binary into a container image in a registry.
#[derive(Debug, Parser)]
#[command(
    name = "slipway",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 succeeded, 1 the build failed or the server refused the request, \
                  2 usage or configuration, 3 the server cannot be reached, 130 interrupted."
)]
pub struct Arguments {
    /// Where settings come from.
    #[command(flatten, next_help_heading = "Global options")]
    pub config: ConfigArgs,
    /// The options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command; none is needed where the configuration is only printed.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The options of every command.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where the dispatcher is
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:7070",
        value_parser = value::server
    )]
    #[serde(serialize_with = "as_text")]
    pub server: Url,
    /// The project that builds and artifacts belong to
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_PROJECT",
        value_name = "NAME",
        default_value = "default"
    )]
    pub project: ProjectName,
    /// The API token; set it in the environment, because `ps` shows options
    #[arg(long, global = true, env = "SLIPWAY_TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,
    /// How results are written to stdout
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_OUTPUT",
        value_enum,
        default_value_t,
        value_name = "text|json",
        hide_possible_values = true
    )]
    pub output: Format,
}

/// The settings that apply to a command line, as the file that gives them.
#[derive(Debug, Serialize)]
pub struct Effective<'a> {
    #[serde(flatten)]
    global: &'a GlobalArgs,
    #[serde(flatten)]
    command: OfCommand<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OfCommand<'a> {
    Dev(&'a DevArgs),
    Local(&'a LocalArgs),
    Other {},
}

impl<'a> Effective<'a> {
    /// Returns those of every command, and those of the command itself.
    #[must_use]
    pub fn of(arguments: &'a Arguments) -> Self {
        let command = match &arguments.command {
            Some(Command::Dev(args)) => OfCommand::Dev(args),
            Some(Command::Build(args)) => OfCommand::Local(&args.local_options),
            _ => OfCommand::Other {},
        };
        Self { global: &arguments.global, command }
    }
}

fn as_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all of Slipway on this machine: nats-server, dispatcher and a worker
    Dev(Box<DevArgs>),
    /// Upload an artifact, build its image and wait for the outcome
    Build(Box<BuildArgs>),
    /// Upload an artifact and submit its build without waiting; prints the build's id
    Submit(Box<SubmitArgs>),
    /// Submit the builds of a file, one JSON request on each line; prints their ids
    #[command(after_help = examples::BATCH)]
    Batch {
        /// The file, or - for standard input. A request has the fields of the API; `file`, the path
        /// of an artifact to upload, may take the place of `artifact`
        file: std::path::PathBuf,
    },
    /// Show one build
    #[command(after_help = examples::GET)]
    Get {
        /// The build's id, or its first characters
        id: BuildName,
    },
    /// List builds, newest first
    List(ListArgs),
    /// Print the log of a build, always as text
    #[command(after_help = examples::LOGS)]
    Logs {
        /// The build's id, or its first characters
        id: BuildName,
        /// Follow the log until the build has ended; the exit code is then the build's
        #[arg(short, long)]
        follow: bool,
    },
    /// Cancel builds: those that wait never start, those that run stop without pushing a tag
    Cancel(CancelArgs),
    /// Submit the request of a finished build as a new build; prints the new build's id
    Retry(RetryArgs),
    /// Look after dead letters: requests that used up their attempts or cannot be read
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Print the project's events, oldest first
    Events(EventsArgs),
    /// List the workers, or drain some of them
    Workers {
        /// What to do with them. Without it they are listed.
        #[command(subcommand)]
        command: Option<WorkersCommand>,
    },
    /// Show the depth of the queue
    Queue,
    /// Repair builds that a crash left half done now, and show what was repaired
    Reconcile,
    /// Remove artifacts, logs and records above their bounds that nobody needs any more
    #[command(after_help = examples::GC)]
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// List the environments that a build can name
    Environments,
    /// Print a script that completes commands and options in a shell
    #[command(after_help = examples::COMPLETION)]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of slipway, or write those of all commands into a directory
    #[command(after_help = examples::MAN)]
    Man {
        /// The directory
        directory: Option<std::path::PathBuf>,
    },
    /// Print the version
    Version,
}

/// The options of `slipway list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = examples::LIST)]
pub struct ListArgs {
    /// Only builds in this state; repeatable
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub states: Vec<slipway_proto::api::StateName>,
    /// Only builds of this image: REGISTRY/REPOSITORY for any tag, or with :TAG
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<String>,
    /// How many of them.
    #[command(flatten)]
    pub page: PageArgs,
}

/// The options of `slipway cancel`.
#[derive(Debug, Clone, Args)]
#[command(after_help = examples::CANCEL)]
pub struct CancelArgs {
    /// The ids of the builds, or their first characters
    #[arg(value_name = "ID", required_unless_present = "all_queued")]
    pub ids: Vec<BuildName>,
    /// All builds of the project that wait for a worker
    #[arg(long, conflicts_with = "ids")]
    pub all_queued: bool,
}

/// The options of `slipway retry`.
#[derive(Debug, Clone, Args)]
#[command(after_help = examples::RETRY)]
pub struct RetryArgs {
    /// The id of the finished build, or its first characters
    pub id: BuildName,
    /// Show the new build's log and wait for its outcome; the exit code is then the build's
    #[arg(short, long)]
    pub follow: bool,
    /// Retrying again with the same key returns the same build
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// What to do with workers.
#[derive(Debug, Clone, Subcommand)]
pub enum WorkersCommand {
    /// Let workers take no more builds, finish what they hold, and exit
    Drain {
        /// The workers
        #[arg(value_name = "ID", required = true)]
        ids: Vec<WorkerId>,
    },
}

/// The options of `slipway events`.
#[derive(Debug, Clone, Args)]
#[command(after_help = examples::EVENTS)]
pub struct EventsArgs {
    /// Print new events until Ctrl-C, instead of past ones
    #[arg(short, long)]
    pub follow: bool,
    /// Only events of this build; with --follow also its past ones
    #[arg(long, value_name = "ID")]
    pub build: Option<BuildName>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_behind_the_command() {
        for line in [
            "slipway --server http://ci.example/s --project team --output json queue",
            "slipway queue --server http://ci.example/s --project team --output json",
        ] {
            let global = parse(line).expect("it parses").global;
            assert_eq!(global.server.as_str(), "http://ci.example/s");
            assert_eq!(global.project.as_str(), "team");
            assert_eq!(global.output, Format::Json);
        }
    }

    #[test]
    fn every_option_that_repeats_says_so() {
        fn check(command: &clap::Command) {
            let repeats = |arg: &&clap::Arg| {
                matches!(arg.get_action(), clap::ArgAction::Append) && !arg.is_positional()
            };
            for arg in command.get_arguments().filter(repeats) {
                let help = arg.get_help().expect("a help").to_string();
                assert!(help.contains("repeatable"), "{}: {help}", arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn every_example_is_a_command_line() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.trim().strip_prefix("slipway ")) {
                let line = line.split(['|', '>', '#']).next().unwrap_or_default();
                let words = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
                let words: Vec<&str> = std::iter::once("slipway").chain(words).collect();
                if let Err(error) = Arguments::try_parse_from(&words) {
                    panic!("{words:?}: {error}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn workers_are_listed_unless_something_is_to_be_done_with_them() {
        let command = |line| match parse(line).expect("it parses").command {
            Some(Command::Workers { command }) => command,
            other => panic!("not about workers: {other:?}"),
        };
        assert!(command("slipway workers").is_none());
        let Some(WorkersCommand::Drain { ids }) = command("slipway workers drain w-1 w-2") else {
            panic!("nobody drains")
        };
        assert_eq!(ids.len(), 2);
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "slipway get nonsense",
            "slipway get 0189-",
            "slipway completion cmd",
            "slipway queue --server localhost:7070",
            "slipway queue --server ftp://x",
            "slipway queue --project A",
            "slipway list --state done",
            "slipway list --all --limit 3",
            "slipway list --limit 0",
            "slipway cancel",
            "slipway cancel --all-queued 01890a5d-ac96-774b-bcce-b302099a8057",
            "slipway batch",
            "slipway retry",
            "slipway dead",
            "slipway dead show",
            "slipway dead replay",
            "slipway dead drop ..",
            "slipway dead list --all --limit 3",
            "slipway workers drain",
            "slipway build app.jar",
            "slipway build --image r.example/a",
            "slipway frobnicate",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
