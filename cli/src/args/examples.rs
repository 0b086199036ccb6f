// SPDX-License-Identifier: Apache-2.0

//! Examples for the help of commands. A test reads each as a command line.

pub(super) const BATCH: &str = "\
Examples:
  slipway batch builds.jsonl
  jq -c '.[]' builds.json | slipway batch -

A line, with a file to upload first:
  {\"file\": \"app.jar\", \"image\": \"registry.example/team/app:1.4\"}";

pub(super) const GET: &str = "\
Examples:
  slipway get 01890a5d-ac96-774b-bcce-b302099a8057
  slipway get 01890a5d-ac96 --output json";

pub(super) const LOGS: &str = "\
Examples:
  slipway logs 01890a5d-ac96-774b-bcce-b302099a8057
  slipway logs 01890a5d-ac96 -f";

pub(super) const LIST: &str = "\
Examples:
  slipway list --state failed,cancelled
  slipway list --image registry.example/team/app --all";

pub(super) const CANCEL: &str = "\
Examples:
  slipway cancel 01890a5d-ac96-774b-bcce-b302099a8057 01890a5d-b1
  slipway cancel --all-queued";

pub(super) const RETRY: &str = "\
Examples:
  slipway retry 01890a5d-ac96 --follow";

pub(super) const EVENTS: &str = "\
Examples:
  slipway events -f
  slipway events --build 01890a5d-ac96 --output json";

pub(super) const GC: &str = "\
Examples:
  slipway gc --dry-run
  slipway gc";

pub(super) const COMPLETION: &str = "\
Examples:
  slipway completion bash > ~/.local/share/bash-completion/completions/slipway
  slipway completion zsh > ~/.zfunc/_slipway
  slipway completion fish > ~/.config/fish/completions/slipway.fish";

pub(super) const MAN: &str = "\
Examples:
  slipway man | man -l -
  slipway man ~/.local/share/man/man1";
