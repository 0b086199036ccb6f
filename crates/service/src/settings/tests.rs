// SPDX-License-Identifier: Apache-2.0

//! Settings of a program that exists only here.

use std::io::Write as _;

use clap::Subcommand;
use serde::Serialize;
use slipway_secret::Secret;
use tempfile::NamedTempFile;

use super::*;

#[derive(Debug, Parser, Serialize)]
#[command(name = "program")]
struct Program {
    #[command(flatten)]
    #[serde(skip)]
    config: ConfigArgs,
    #[command(flatten)]
    #[serde(flatten)]
    part: Part,
    /// Not a setting
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args, Serialize)]
struct Part {
    /// How many run at once
    #[arg(long, env = "SLIPWAY_SLOTS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    slots: u32,
    /// Where it listens
    #[arg(long, env = "SLIPWAY_LISTEN", default_value = "127.0.0.1:1")]
    listen: std::net::SocketAddr,
    /// Whether strangers may reach it
    #[arg(long, env = "SLIPWAY_INSECURE", default_value_t, num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    insecure: bool,
    /// Mirrors
    #[arg(long = "mirror", env = "SLIPWAY_MIRRORS", value_delimiter = ',')]
    mirrors: Vec<String>,
    /// A password
    #[arg(long, env = "SLIPWAY_PASSWORD", hide_env_values = true, value_parser = password)]
    password: Option<Secret>,
}

fn password(text: &str) -> Result<Secret, &'static str> {
    if text.len() < 4 { Err("is too short") } else { Ok(text.to_owned().into()) }
}

fn check(program: &Program, mistakes: &mut Mistakes) {
    if !program.part.listen.ip().is_loopback() && !program.part.insecure {
        mistakes.add("listen", "is open to strangers");
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it can be written");
    file
}

fn sources(flags: &[&str], variables: &[(&str, &str)], file: Option<&NamedTempFile>) -> Sources {
    Sources {
        arguments: ["program"].iter().chain(flags).map(OsString::from).collect(),
        variables: variables.iter().map(|(name, value)| ((*name).into(), value.into())).collect(),
        default_file: file.map(|file| file.path().to_owned()),
        version: None,
    }
}

fn read(
    flags: &[&str],
    variables: &[(&str, &str)],
    text: &str,
) -> Result<Loaded<Program>, LoadError> {
    let file = file(text);
    load(&sources(flags, variables, Some(&file)), check)
}

fn mistakes(flags: &[&str], variables: &[(&str, &str)], text: &str) -> Vec<String> {
    let file = file(text);
    let error = load(&sources(flags, variables, Some(&file)), check).expect_err("it is refused");
    let LoadError::Mistakes(mistakes) = error else { panic!("another error: {error}") };
    let path = file.path().display().to_string();
    mistakes.found().iter().map(|mistake| mistake.to_string().replace(&path, "FILE")).collect()
}

#[test]
fn a_higher_layer_wins_and_a_lower_one_fills_in() {
    let text = "slots = 3\nlisten = '127.0.0.1:3'\nmirrors = ['a', 'b']\ninsecure = true";
    let variables = [("SLIPWAY_SLOTS", "4"), ("SLIPWAY_LISTEN", "127.0.0.1:4")];
    let part = read(&["--slots", "5"], &variables, text).expect("it holds").arguments.part;
    assert_eq!((part.slots, part.listen.port(), part.insecure), (5, 4, true));
    assert_eq!(part.mirrors, ["a", "b"]);
    let part = read(&[], &[], text).expect("it holds").arguments.part;
    assert_eq!((part.slots, part.listen.port()), (3, 3));
    let part = read(&[], &[], "").expect("it holds").arguments.part;
    assert_eq!((part.slots, part.listen.port(), part.insecure), (2, 1, false));
    assert!(part.mirrors.is_empty());
}

#[test]
fn a_list_of_a_higher_layer_replaces_that_of_a_lower() {
    let variables = [("SLIPWAY_MIRRORS", "c,d")];
    let part = read(&[], &variables, "mirrors = ['a']").expect("it holds").arguments.part;
    assert_eq!(part.mirrors, ["c", "d"]);
    let flags = ["--mirror=e", "--mirror=f"];
    let part = read(&flags, &variables, "mirrors = ['a']").expect("it holds").arguments.part;
    assert_eq!(part.mirrors, ["e", "f"]);
}

#[test]
fn every_mistake_of_every_layer_is_reported_at_once_with_its_origin() {
    let text = "\nslots = 9\nslotss = 3\nmirrors = { a = 1 }\n";
    let variables = [("SLIPWAY_SLOTS", "x"), ("SLIPWAY_PASSWORD", "abc")];
    let flags = ["--insecure=perhaps", "--listen", "0.0.0.0:80"];
    insta::assert_snapshot!(mistakes(&flags, &variables, text).join("\n"));
}

#[test]
fn a_mistake_between_values_names_the_layer_that_won() {
    let mistakes = mistakes(&[], &[("SLIPWAY_LISTEN", "0.0.0.0:80")], "listen = '127.0.0.1:1'");
    assert_eq!(mistakes, ["listen (from SLIPWAY_LISTEN): is open to strangers"]);
}

#[test]
fn a_key_that_does_not_exist_is_refused() {
    assert_eq!(mistakes(&[], &[], "once = true"), ["once (from FILE:1): there is no such setting"]);
}

#[test]
fn a_file_that_is_named_and_cannot_be_read_is_a_mistake_beside_the_others() {
    let sources = sources(&["--config", "/nowhere/x.toml", "--slots=0"], &[], None);
    let error = load(&sources, check).expect_err("it is refused").to_string();
    assert!(error.contains("/nowhere/x.toml: cannot be read"), "{error}");
    assert!(error.contains("slots (from --slots)"), "{error}");
    let sources = Sources { default_file: Some("/nowhere/x.toml".into()), ..sources };
    let sources = Sources { arguments: vec!["program".into()], ..sources };
    assert!(load(&sources, check).is_ok(), "a default file need not be there");
}

#[test]
fn a_file_that_is_not_toml_names_the_line() {
    let found = mistakes(&[], &[], "slots = 3\nlisten =\n");
    assert!(found[0].starts_with("FILE: is not TOML: line 2"), "{found:?}");
}

#[test]
fn a_variable_that_looks_like_a_misspelt_setting_is_warned_about_and_others_are_not() {
    let variables = [
        ("SLIPWAY_SLOTSS", "3"),
        ("SLIPWAY_DISPATCHER_SERVICE_HOST", "10.0.0.1"),
        ("SLIPWAY_SLOTS", "3"),
        ("SLOTS", "3"),
    ];
    let warnings = read(&[], &variables, "").expect("it holds").warnings;
    assert_eq!(
        warnings,
        ["SLIPWAY_SLOTSS is not a setting and is ignored; did you mean SLIPWAY_SLOTS?"]
    );
}

#[test]
fn secrets_are_neither_in_what_is_printed_nor_in_a_mistake() {
    let variables = [("SLIPWAY_PASSWORD", "hunter2"), ("SLIPWAY_SLOTS", "4")];
    let program = read(&["--mirror=a"], &variables, "").expect("it holds").arguments;
    let printed = toml::to_string(&program).expect("plain values");
    insta::assert_snapshot!(printed);
    let mistakes = mistakes(&[], &[("SLIPWAY_PASSWORD", "abc")], "");
    assert_eq!(mistakes, ["password (from SLIPWAY_PASSWORD): is too short"]);
}

#[test]
fn what_is_printed_is_a_file_that_gives_the_same() {
    let program = read(&["--slots=4", "--mirror=a"], &[], "").expect("it holds").arguments;
    let printed = toml::to_string(&program).expect("plain values").replace("once = false\n", "");
    let again = read(&[], &[], &printed).expect("it holds").arguments;
    assert_eq!(toml::to_string(&again), toml::to_string(&program));
}

#[test]
fn a_command_line_that_is_none_stays_a_matter_of_clap() {
    for (flags, kind) in [
        (["--frobnicate"], clap::error::ErrorKind::UnknownArgument),
        (["--help"], clap::error::ErrorKind::DisplayHelp),
    ] {
        let error = read(&flags, &[], "").expect_err("it is refused");
        let LoadError::Usage(error) = error else { panic!("another error: {error}") };
        assert_eq!(error.kind(), kind);
    }
}

#[derive(Debug, Parser)]
struct Commands {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the server is
    #[arg(long, global = true, env = "SLIPWAY_SERVER", default_value = "here")]
    server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs
    Run {
        /// How many run at once
        #[arg(long, env = "SLIPWAY_SLOTS", default_value_t = 1)]
        slots: u8,
    },
    /// Looks
    Look {
        /// What
        what: String,
        /// How many are looked at
        #[arg(long, env = "SLIPWAY_SLOTS", default_value_t = 300)]
        slots: u32,
    },
}

#[test]
fn settings_of_subcommands_come_from_the_same_layers() {
    let file = file("server = 'there'\nslots = 3");
    let given = |flags: &[&str]| {
        load::<Commands>(&sources(flags, &[], Some(&file)), |_, _| {})
            .map(|loaded| loaded.arguments)
    };
    let commands = given(&["run"]).expect("it holds");
    assert_eq!(commands.server, "there");
    assert!(matches!(commands.command, Command::Run { slots: 3 }), "{commands:?}");
    let commands = given(&["look", "up", "--slots=1000", "--server", "away"]).expect("it holds");
    assert_eq!(commands.server, "away");
    assert!(matches!(commands.command, Command::Look { slots: 1000, .. }), "{commands:?}");
    let error = given(&["run", "--slots=1000"]).expect_err("it is refused").to_string();
    assert!(error.contains("slots (from --slots): `1000`"), "{error}");
}

#[test]
fn defaults_are_those_of_the_declaration() {
    let part: Part = defaults();
    assert_eq!((part.slots, part.listen.port()), (2, 1));
}
