// SPDX-License-Identifier: Apache-2.0

//! The text of `--version`, such as `0.1.0 (619bace 2026-11-29)`: the version of the package that
//! asks, the commit it is built from, and that commit's date.
//!
//! This is a macro and not a build script, because a build script belongs to a whole package: after
//! each commit Cargo would compile every library with a program, and all that depends on them. The
//! macro runs where a program's `main.rs` calls it, and names the files to watch there, so a commit
//! costs the compilation of those small files and a link.

mod commit;

use std::env;
use std::path::Path;

use proc_macro::TokenStream;

use commit::{Commit, UNKNOWN};

/// The version of the calling package and its commit, as a `&'static str` that constants can hold.
///
/// The commit is, in this order:
/// 1. what the environment variable `SLIPWAY_COMMIT` says, for builds that have no repository at
///    hand, such as one in a container: `SLIPWAY_COMMIT="619bace 2026-11-29"`,
/// 2. the commit that is checked out, and its date: two builds of one commit say the same,
/// 3. the word `unknown`, in a source archive.
///
/// Changes that are not committed do not show.
#[proc_macro]
pub fn version(_: TokenStream) -> TokenStream {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let named = env::var("SLIPWAY_COMMIT").unwrap_or_default();
    if let Some(unfit) = named.chars().find(|character| !commit::may_hold(*character)) {
        let complaint = format!("SLIPWAY_COMMIT contains {unfit:?}");
        return expression(&format!("::core::compile_error!({complaint:?})"));
    }
    let directory = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let found = if named.is_empty() { Commit::of(Path::new(&directory)) } else { None };
    let (commit, watched) = match &found {
        Some(commit) => (commit.text.as_str(), commit.changes_with.as_slice()),
        None if named.is_empty() => (UNKNOWN, [].as_slice()),
        None => (named.as_str(), [].as_slice()),
    };
    let mut body = String::from("const _: ::core::option::Option<&str> = ");
    body.push_str("::core::option_env!(\"SLIPWAY_COMMIT\");");
    for file in watched {
        body.push_str(&format!("const _: &[u8] = ::core::include_bytes!({file:?});"));
    }
    let text = format!("{version} ({commit})");
    expression(&format!("{{ {body} {text:?} }}"))
}

fn expression(source: &str) -> TokenStream {
    source.parse().expect("the source is written above, and its literals are escaped")
}
