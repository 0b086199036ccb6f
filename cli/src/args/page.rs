// SPDX-License-Identifier: Apache-2.0

//! How much of a list is shown.

use clap::Args;

/// How much of a list is shown.
#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All of them, page by page
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}
