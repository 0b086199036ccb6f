// SPDX-License-Identifier: Apache-2.0

//! The part of a list that is shown.

use clap::Args;

/// The part of a list that is shown.
#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// The largest number of entries
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All of them, page by page
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}
