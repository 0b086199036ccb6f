// SPDX-License-Identifier: Apache-2.0

//! Inputs to start from, written by the target that reads them.

use std::path::Path;
use std::process;

/// Names the directory that a target writes its inputs into, instead of fuzzing.
const DIRECTORY: &str = "SLIPWAY_FUZZ_SEEDS";

/// Writes each input to the directory that `SLIPWAY_FUZZ_SEEDS` names and ends the process; does
/// nothing if that variable is not set. For the `init` of a target.
///
/// # Panics
///
/// When an input cannot be written.
pub fn write<Name: AsRef<str>>(inputs: impl IntoIterator<Item = (Name, Vec<u8>)>) {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    for (name, bytes) in inputs {
        let path = Path::new(&directory).join(name.as_ref());
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    process::exit(0);
}
