// SPDX-License-Identifier: Apache-2.0

//! A service from its command line to its exit code.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use slipway_fault::chain;
use tokio_util::sync::CancellationToken;

use crate::Exit;
use crate::settings::{self, ConfigArgs, LoadError, Mistakes, Sources};
use crate::signals;
use crate::telemetry::TelemetryConfig;

/// The command line of a service. It serializes as the configuration that `--check-config` prints.
pub trait Program: Parser + Serialize {
    /// Returns the options that every program has.
    fn config_args(&self) -> &ConfigArgs;

    /// Returns how it logs.
    fn telemetry(&self) -> &TelemetryConfig;

    /// Returns the settings that an operator looks for first when something is wrong, for the line
    /// that the program logs at its start.
    fn essentials(&self) -> String;

    /// Adds mistakes that no value shows alone.
    fn check(&self, mistakes: &mut Mistakes) {
        let _ = mistakes;
    }
}

/// Runs a service: reads its settings, starts telemetry, logs its version, and serves until it ends
/// by itself or a signal stops it.
pub fn run<P: Program, E>(
    serve: impl AsyncFnOnce(P, CancellationToken) -> Result<(), E>,
) -> ExitCode
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let command = P::command();
    let name = command.get_name();
    let loaded = match settings::load(&Sources::of_process(None), P::check) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(name, &error).into(),
    };
    let program: P = loaded.arguments;
    if program.config_args().check_config {
        warn(name, &loaded.warnings);
        return print(&program).into();
    }
    program.telemetry().start("info");
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let version = command.get_version().unwrap_or("unknown");
    tracing::info!(version, "{name} starts: {}", program.essentials());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = match runtime {
        Ok(runtime) => runtime
            .block_on(async { serve(program, signals::stop_token()).await })
            .map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    match served {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let error = chain(error.as_ref());
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(error, "{name} failed");
            } else {
                complain(name, &error);
            }
            Exit::Failed
        }
    }
    .into()
}

/// Says why a program cannot be configured, and returns how it ends.
pub fn refuse(name: &str, error: &LoadError) -> Exit {
    match error {
        LoadError::Usage(usage) => {
            // Nobody is left to hear of a closed stdout.
            let _ = usage.print();
            if usage.use_stderr() { Exit::Usage } else { Exit::Ok }
        }
        LoadError::Mistakes(mistakes) => {
            complain(name, &mistakes.to_string());
            Exit::Usage
        }
    }
}

/// Prints a configuration as the TOML file that gives it, without secrets.
///
/// # Panics
///
/// When a setting serializes as something that TOML cannot express.
pub fn print(settings: &impl Serialize) -> Exit {
    let text = toml::to_string(settings).expect("settings are plain values");
    // Not `println!`, which panics when a reader such as `head` has closed the pipe.
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed.map_or(Exit::Failed, |()| Exit::Ok)
}

/// Writes warnings about settings to stderr.
pub fn warn(name: &str, warnings: &[String]) {
    warnings.iter().for_each(|warning| complain(name, warning));
}

fn complain(name: &str, message: &str) {
    let _unwritten = writeln!(std::io::stderr(), "{name}: {message}");
}
