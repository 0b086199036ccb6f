// SPDX-License-Identifier: Apache-2.0

//! A dispatcher or worker that is killed and started again.

use std::path::PathBuf;
use std::time::Duration;

use super::built;
use crate::chaos::plan::Target;
use crate::process::{Process, command};

/// A dispatcher or worker.
pub(crate) struct Program {
    target: Target,
    binary: PathBuf,
    arguments: Vec<String>,
    switch_off: Option<String>,
    log: PathBuf,
    process: Option<Process>,
}

impl Program {
    pub(crate) fn new(
        target: Target,
        name: &str,
        arguments: Vec<String>,
        switch_off: Option<String>,
        log: PathBuf,
    ) -> Self {
        let binary = built(name);
        Self { target, binary, arguments, switch_off, log, process: None }
    }

    /// Starts it, with failpoints if any are given.
    pub(crate) fn start(&mut self, failpoints: Option<&str>) {
        let mut start = command(&self.binary);
        start.args(&self.arguments);
        if let Some(names) = &self.switch_off {
            start.env("SLIPWAY_SWITCH_OFF", names);
        }
        if let Some(failpoints) = failpoints {
            start.env("SLIPWAY_FAILPOINTS", failpoints);
        }
        self.process = Some(Process::start(&self.target.to_string(), start, &self.log));
    }

    /// Kills it. It stays dead until it is started.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends a signal by its name, if it still runs.
    pub(crate) fn signal(&mut self, signal: &str) {
        if let Some(process) = &mut self.process
            && process.is_running()
        {
            process.signal(signal);
        }
    }

    /// Returns its exit status, if it ended by itself.
    pub(crate) async fn ended(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        if process.is_running() {
            return None;
        }
        let status = process.exit(Duration::from_secs(1)).await;
        self.process = None;
        Some(status.to_string())
    }

    /// Returns whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()));
        // The state follows the name, which is in parentheses.
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    }

    /// Continues it if it was stopped, and starts it if it is dead.
    pub(crate) fn heal(&mut self) {
        self.signal("CONT");
        if self.process.is_none() {
            self.start(None);
        }
    }
}
