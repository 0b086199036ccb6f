// SPDX-License-Identifier: Apache-2.0

//! The binary `slipway`: reads the command line, runs the command, returns its exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = slipway::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(slipway::run(arguments));
    // Without waiting for running tasks: a second Ctrl-C must end `slipway dev` at once.
    runtime.shutdown_background();
    ExitCode::from(code)
}
