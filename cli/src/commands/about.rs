// SPDX-License-Identifier: Apache-2.0

//! What slipway says about itself: its version, completion for shells, manual pages. Nothing of it
//! needs a server.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;
use slipway_fault::chain;
use slipway_service::Exit;

use crate::args::{Arguments, Command, GlobalArgs};
use crate::output::{Output, note};

/// Runs a command that is about slipway itself; `None` if it is another one.
#[must_use]
pub fn about(command: &Command, global: &GlobalArgs, version: &str) -> Option<Exit> {
    let written = match command {
        Command::Version => {
            let output = Output::new(global.output);
            match output.is_json() {
                true => output.document(&json!({"version": version})),
                false => output.result(&format!("slipway {version}")),
            }
            return Some(if output.has_failed() { Exit::Failed } else { Exit::Ok });
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "slipway", &mut script);
            print(&script)
        }
        Command::Man { directory: Some(directory) } => write_pages(directory, version),
        Command::Man { directory: None } => page(version).and_then(|page| print(&page)),
        _ => return None,
    };
    Some(match written {
        Ok(()) => Exit::Ok,
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            note(&format!("error: {}", chain(&error)));
            Exit::Failed
        }
    })
}

fn documented(version: &str) -> clap::Command {
    Arguments::command().version(version.to_owned())
}

fn page(version: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(documented(version)).render(&mut page)?;
    Ok(page)
}

fn write_pages(directory: &Path, version: &str) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write to {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(documented(version), directory).map_err(failed)
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page_and_is_completed() {
        let directory = tempfile::tempdir().expect("a directory");
        write_pages(directory.path(), "1.2.3").expect("they are written");
        let names: Vec<String> =
            Arguments::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
        let mut script = Vec::new();
        let shell = clap_complete::Shell::Bash;
        clap_complete::generate(shell, &mut Arguments::command(), "slipway", &mut script);
        let script = String::from_utf8(script).expect("text");
        for name in names {
            assert!(directory.path().join(format!("slipway-{name}.1")).exists(), "{name}");
            assert!(script.contains(&name), "{name}");
        }
        let page = String::from_utf8(page("1.2.3").expect("a page")).expect("text");
        assert!(page.contains("1.2.3") && page.contains("SUBCOMMANDS"), "{page}");
    }
}
