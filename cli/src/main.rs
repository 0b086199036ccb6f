// SPDX-License-Identifier: Apache-2.0

//! The program `slipway`: reads the command line and the settings below it, runs the command, and
//! returns its exit code.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use slipway::{Arguments, Effective};
use slipway_service::settings::{self, LoadError, Sources};
use slipway_service::{Exit, directories};

fn main() -> ExitCode {
    run().into()
}

fn run() -> Exit {
    let file = directories::user_config().map(|directory| directory.join("config.toml"));
    // The commit is named here, where little has to be compiled again after the next one.
    let version = slipway_version::version!();
    let sources = Sources { version: Some(version), ..Sources::of_process(file) };
    let loaded = match settings::load::<Arguments>(&sources, |_, _| {}) {
        Ok(loaded) => loaded,
        Err(error) => return slipway_service::refuse("slipway", &error),
    };
    slipway_service::warn("slipway", &loaded.warnings);
    let arguments = loaded.arguments;
    if arguments.config.check_config {
        return slipway_service::print(&Effective::of(&arguments));
    }
    let Some(command) = arguments.command else {
        let missing = Arguments::command().error(
            ErrorKind::MissingSubcommand,
            "a command is missing: `slipway --help` lists them",
        );
        return slipway_service::refuse("slipway", &LoadError::Usage(missing));
    };
    if let Some(exit) = slipway::about(&command, &arguments.global, version) {
        return exit;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            slipway_service::warn("slipway", &[format!("the runtime does not start: {error}")]);
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(slipway::run(command, arguments.global));
    // Without waiting for what still runs: a second Ctrl-C must end `slipway dev` at once.
    runtime.shutdown_background();
    exit
}
