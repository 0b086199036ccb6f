// SPDX-License-Identifier: Apache-2.0

//! The values of all layers, each read by its option alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::mistakes::{Mistakes, Origin};
use super::{PREFIX, Sources, is_setting};

/// How far a name may be from a known one to be taken for a misspelling, in edits.
const MISSPELT: usize = 2;

/// The settings of a program, by their keys.
pub(super) struct Schema {
    settings: BTreeMap<String, Arg>,
}

impl Schema {
    /// Collects the settings of a command line and of its subcommands. Where several have one of
    /// the same name, that of the chosen subcommand counts.
    pub(super) fn of(command: &Command, given: &ArgMatches) -> Self {
        let mut settings = BTreeMap::new();
        collect(command, Some(given), &mut settings);
        Self { settings }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    pub(super) fn similar_key(&self, name: &str) -> Option<&str> {
        let keys = self.settings.keys().map(String::as_str);
        closest(name, keys)
    }

    /// Returns a sentence for each variable that looks like a misspelt setting.
    pub(super) fn misspelt(&self, variables: &BTreeMap<String, OsString>) -> Vec<String> {
        let known: Vec<&str> = self.settings.values().filter_map(variable).collect();
        let unknown = variables.keys().filter(|name| {
            name.starts_with(PREFIX)
                && *name != super::CONFIG_VARIABLE
                && !known.contains(&name.as_str())
        });
        unknown
            .filter_map(|name| {
                let similar = closest(name, known.iter().copied())?;
                Some(format!("{name} is not a setting and is ignored; did you mean {similar}?"))
            })
            .collect()
    }
}

fn collect(command: &Command, given: Option<&ArgMatches>, settings: &mut BTreeMap<String, Arg>) {
    let chosen = given.and_then(ArgMatches::subcommand);
    for subcommand in command.get_subcommands() {
        let given = chosen.filter(|(name, _)| *name == subcommand.get_name());
        if given.is_none() {
            collect(subcommand, None, settings);
        }
    }
    for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
        let key = arg.get_id().to_string();
        if given.is_some() || !settings.contains_key(&key) {
            settings.insert(key, arg.clone());
        }
    }
    if let Some((name, given)) = chosen
        && let Some(subcommand) = command.find_subcommand(name)
    {
        collect(subcommand, Some(given), settings);
    }
}

fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(edits, _)| *edits <= MISSPELT)
        .min()
        .map(|(_, known)| known)
}

fn variable(arg: &Arg) -> Option<&str> {
    arg.get_env()?.to_str()
}

/// A setting's value in one layer.
struct Layer {
    origin: Origin,
    values: Vec<OsString>,
}

/// The values of all settings in all layers.
#[derive(Default)]
pub(super) struct Layers {
    /// Lowest first, by the setting's key.
    settings: BTreeMap<String, Vec<Layer>>,
}

impl Layers {
    /// Adds a value of a layer below the flags and above what was added before.
    pub(super) fn add(&mut self, key: &str, origin: Origin, values: Vec<OsString>) {
        let layers = self.settings.entry(key.to_owned()).or_default();
        let flag = |layer: &Layer| matches!(layer.origin, Origin::Flag(_));
        let place = layers.iter().position(flag).unwrap_or(layers.len());
        layers.insert(place, Layer { origin, values });
    }

    pub(super) fn add_variables(
        &mut self,
        schema: &Schema,
        variables: &BTreeMap<String, OsString>,
    ) {
        for (key, arg) in &schema.settings {
            let Some(name) = variable(arg) else { continue };
            if let Some(value) = variables.get(name) {
                self.add(key, Origin::Variable(name.to_owned()), vec![value.clone()]);
            }
        }
    }

    pub(super) fn add_flags(&mut self, schema: &Schema, given: &ArgMatches) {
        for (key, arg) in &schema.settings {
            let mut level = Some(given);
            while let Some(given) = level {
                if let Some(values) = flag_values(given, key) {
                    let origin = Origin::Flag(arg.get_long().unwrap_or_default().to_owned());
                    let layers = self.settings.entry(key.clone()).or_default();
                    *layers = vec![Layer { origin, values }];
                }
                level = given.subcommand().map(|(_, given)| given);
            }
        }
    }

    /// Takes out the values that their settings do not accept.
    pub(super) fn drop_invalid(&mut self, schema: &Schema, mistakes: &mut Mistakes) {
        for (key, layers) in &mut self.settings {
            let arg = &schema.settings[key];
            layers.retain(|layer| match check(arg, &layer.values) {
                Ok(()) => true,
                Err(message) => {
                    mistakes.push(key, Some(layer.origin.clone()), message);
                    false
                }
            });
        }
        self.settings.retain(|_, layers| !layers.is_empty());
    }

    /// Returns where the effective value of each setting comes from, if not from its default.
    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        let top = |(key, layers): (&String, &Vec<Layer>)| {
            Some((key.clone(), layers.last()?.origin.clone()))
        };
        self.settings.iter().filter_map(top).collect()
    }

    /// Makes the values of file and variables the defaults of a command line.
    pub(super) fn below_flags(&self, command: Command) -> Command {
        let below = |layers: &[Layer]| {
            let mut below = layers.iter().rev();
            below.find(|layer| !matches!(layer.origin, Origin::Flag(_))).map(|l| l.values.clone())
        };
        command
            .mut_args(|arg| {
                if !is_setting(&arg) {
                    return arg;
                }
                let values = self.settings.get(arg.get_id().as_str()).and_then(|l| below(l));
                let arg = arg.env(None::<&str>);
                values.map_or(arg.clone(), |values| arg.default_values(values))
            })
            .mut_subcommands(|subcommand| self.below_flags(subcommand))
    }

    /// Writes a command line of the flags alone.
    pub(super) fn flags(&self, schema: &Schema) -> Vec<OsString> {
        let mut line = vec![OsString::new()];
        for (key, layers) in &self.settings {
            if let Some(Layer { origin: Origin::Flag(_), values }) = layers.last() {
                line.extend(flags(&schema.settings[key], values));
            }
        }
        line
    }
}

fn flag_values(given: &ArgMatches, key: &str) -> Option<Vec<OsString>> {
    // An id that is not of this level is an error here, and not a panic.
    let values = given.try_get_raw(key).ok()??.map(ToOwned::to_owned).collect();
    (given.value_source(key) == Some(ValueSource::CommandLine)).then_some(values)
}

fn flags(arg: &Arg, values: &[OsString]) -> Vec<OsString> {
    let long = arg.get_long().unwrap_or_default();
    let flag = |value: &OsString| {
        let mut flag = OsString::from(format!("--{long}="));
        flag.push(value);
        flag
    };
    values.iter().map(flag).collect()
}

/// Reads values by one option alone; returns what is wrong with them.
fn check(arg: &Arg, values: &[OsString]) -> Result<(), String> {
    let command = Command::new("setting").no_binary_name(true).arg(arg.clone());
    let Err(error) = command.try_get_matches_from(flags(arg, values)) else { return Ok(()) };
    let valid = error.context().find_map(|(kind, value)| match (kind, value) {
        (ContextKind::ValidValue, ContextValue::Strings(valid)) if !valid.is_empty() => {
            Some(format!("is none of {}", valid.join(", ")))
        }
        _ => None,
    });
    let source = || std::error::Error::source(&error).map(ToString::to_string);
    let message = valid.or_else(source).unwrap_or_else(|| {
        match error.kind() {
            ErrorKind::ArgumentConflict => "takes one value",
            ErrorKind::InvalidUtf8 => "is not UTF-8",
            _ => "a value is missing",
        }
        .to_owned()
    });
    if arg.is_hide_env_values_set() {
        return Err(message);
    }
    let shown: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
    Err(format!("`{}`: {message}", shown.join(",")))
}

/// Lets every setting take any value, so that a wrong one is found together with those of other
/// layers.
pub(super) fn lenient(command: Command) -> Command {
    command
        .mut_args(
            |arg| {
                if is_setting(&arg) { arg.value_parser(ValueParser::os_string()) } else { arg }
            },
        )
        .mut_subcommands(lenient)
}

/// Returns the error that the command line itself gives where it gives one: its help names the
/// values that an option takes.
pub(super) fn own_words(
    command: Command,
    error: clap::Error,
    arguments: &[OsString],
) -> clap::Error {
    let own = command.try_get_matches_from(arguments);
    own.err().filter(|own| own.kind() == error.kind()).unwrap_or(error)
}

/// Returns the file that was named by flag or variable, else the default one if it is there.
pub(super) fn config_file(given: &ArgMatches, sources: &Sources) -> Option<PathBuf> {
    let mut level = Some(given);
    while let Some(given) = level {
        if let Some(path) =
            flag_values(given, "config").and_then(|values| values.into_iter().next())
        {
            return Some(path.into());
        }
        level = given.subcommand().map(|(_, given)| given);
    }
    let named = sources.variables.get(super::CONFIG_VARIABLE).filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| sources.default_file.clone().filter(|path| path.is_file()))
}
