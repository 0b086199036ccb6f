// SPDX-License-Identifier: Apache-2.0

//! Settings in layers, lowest to highest: defaults, a TOML file, `SLIPWAY_*` variables, flags.
//!
//! A setting is declared once, as a `clap` option with a variable: its help, type, default and
//! bounds are there. Its key in a file is the name of its field. This module adds what clap lacks:
//! the file, and the report of every mistake at once, with the layer that it came from. To that
//! end each value of each layer is read by its option alone; clap itself, and any library that
//! deserializes the merged layers, stops at the first one (`docs/decisions/0018-settings.md`).
//!
//! A key that does not exist is refused, because a misspelt limit that is ignored shows only in an
//! incident. A variable that does not exist is not: other programs and Kubernetes define variables
//! with this prefix too. One that looks like a misspelt setting is warned about.

mod file;
mod layers;
mod mistakes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, FromArgMatches, Parser};

use layers::{Layers, Schema};
pub use mistakes::{Mistake, Mistakes, Origin};

/// What a variable of ours begins with.
const PREFIX: &str = "SLIPWAY_";

/// The options that say where settings come from; every program has them.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML); its keys are the names of the options with underscores
    #[arg(long, global = true, env = CONFIG_VARIABLE, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML, without secrets, and exit
    #[arg(long, global = true)]
    pub check_config: bool,
}

const CONFIG_VARIABLE: &str = "SLIPWAY_CONFIG";

/// Where the layers above the defaults are found.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The command line, beginning with the program's name.
    pub arguments: Vec<OsString>,
    /// The variables of the environment.
    pub variables: BTreeMap<String, OsString>,
    /// The file that is read if none is named and it is there.
    pub default_file: Option<PathBuf>,
    /// What `--version` prints, where the command line's own type does not know the commit.
    pub version: Option<&'static str>,
}

impl Sources {
    /// Returns those of this process.
    #[must_use]
    pub fn of_process(default_file: Option<PathBuf>) -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self {
            arguments: std::env::args_os().collect(),
            variables: std::env::vars_os().filter_map(text).collect(),
            default_file,
            version: None,
        }
    }
}

/// What a program was told.
#[derive(Debug)]
pub struct Loaded<P> {
    /// The command line with all layers below it.
    pub arguments: P,
    /// Variables that look like misspelt settings, each as a sentence.
    pub warnings: Vec<String>,
}

/// Why a program cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The command line is none, or asks for help or the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// Settings are wrong: all of them.
    #[error("{0}")]
    Mistakes(Mistakes),
}

/// Reads a program's settings. `check` adds mistakes that no value shows alone, such as two values
/// that exclude each other.
///
/// # Errors
///
/// Returns what the command line asks for beside settings, else every mistake.
pub fn load<P: Parser>(
    sources: &Sources,
    check: impl Fn(&P, &mut Mistakes),
) -> Result<Loaded<P>, LoadError> {
    let command = || match sources.version {
        Some(version) => P::command().version(version),
        None => P::command(),
    };
    let given = layers::lenient(command())
        .try_get_matches_from(&sources.arguments)
        .map_err(|error| layers::own_words(command(), error, &sources.arguments))?;
    let schema = Schema::of(&command(), &given);
    let mut layers = Layers::default();
    let mut mistakes = Mistakes::default();
    layers.add_flags(&schema, &given);
    let config = layers::config_file(&given, sources);
    if let Some(path) = config {
        file::read(&path, &schema, &mut layers, &mut mistakes);
    }
    layers.add_variables(&schema, &sources.variables);
    layers.drop_invalid(&schema, &mut mistakes);
    mistakes.set_origins(layers.origins());

    let command = layers.below_flags(command());
    // With mistakes it is read only to find more of them, from what is valid.
    let line = if mistakes.is_empty() { sources.arguments.clone() } else { layers.flags(&schema) };
    let read = command.try_get_matches_from(line).and_then(|read| P::from_arg_matches(&read));
    match read {
        Ok(arguments) => {
            check(&arguments, &mut mistakes);
            if mistakes.is_empty() {
                let warnings = schema.misspelt(&sources.variables);
                return Ok(Loaded { arguments, warnings });
            }
        }
        Err(error) if mistakes.is_empty() => return Err(error.into()),
        Err(_) => {}
    }
    Err(LoadError::Mistakes(mistakes))
}

/// Returns settings with their defaults, whatever the environment says.
///
/// # Panics
///
/// When an option has no default and is not optional.
#[must_use]
pub fn defaults<A: Args + FromArgMatches>() -> A {
    let command = A::augment_args(clap::Command::new("defaults").no_binary_name(true));
    let command = command.mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(None::<&str>).expect("every setting has a default");
    A::from_arg_matches(&matches).expect("every setting has a default")
}

/// Returns whether an option is a setting: it can be given by a variable.
fn is_setting(arg: &Arg) -> bool {
    arg.get_env().is_some_and(|variable| variable != CONFIG_VARIABLE) && takes_values(arg)
}

fn takes_values(arg: &Arg) -> bool {
    arg.get_long().is_some() && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

#[cfg(test)]
mod tests;
