// SPDX-License-Identifier: Apache-2.0

//! The commands below `slipway dead`.

use clap::Subcommand;

use super::{PageArgs, value};

/// What to do with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadCommand {
    /// List dead letters, oldest first
    List(PageArgs),
    /// Show one dead letter
    Show {
        /// The build it was for
        #[arg(value_name = "ID", value_parser = value::letter)]
        build: String,
    },
    /// Run dead builds again: the same builds, with all their attempts
    Replay {
        /// The builds they were for
        #[arg(value_name = "ID", required = true, value_parser = value::letter)]
        builds: Vec<String>,
    },
    /// Remove dead letters; their builds remain failed
    Drop {
        /// The builds they were for
        #[arg(value_name = "ID", required = true, value_parser = value::letter)]
        builds: Vec<String>,
    },
}
