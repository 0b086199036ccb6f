// SPDX-License-Identifier: Apache-2.0

//! Child processes that end with their handle.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// A running process. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command whose output goes to a file.
    ///
    /// # Panics
    ///
    /// When the command cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log opens");
        let errors = file.try_clone().expect("the log can be shared");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{name} does not start ({error}): run `make setup` and `cargo build \
                --workspace` first"
            )
        });
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what the process wrote.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns whether the process still runs.
    ///
    /// # Panics
    ///
    /// When the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the process can be asked").is_none()
    }

    /// Sends a signal by its name, such as `TERM`, `STOP` or `CONT`.
    ///
    /// # Panics
    ///
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.id().to_string()])
            .status()
            .expect("kill can be run");
        assert!(status.success(), "{} could not be sent SIG{signal}", self.name);
    }

    /// Waits until the process is stopped, as after SIGSTOP.
    ///
    /// # Panics
    ///
    /// When it does not stop in time.
    pub async fn stopped(&self) {
        let path = format!("/proc/{}/stat", self.id());
        wait::until(&format!("{} to stop", self.name), wait::SOON, || async {
            let line = std::fs::read_to_string(&path).ok()?;
            // `pid (name) state …`; the name may hold anything.
            line.rsplit_once(") ")?.1.starts_with('T').then_some(())
        })
        .await;
    }

    /// Kills the process at once.
    ///
    /// # Panics
    ///
    /// When it cannot be reaped.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        self.child.wait().expect("the process can be reaped");
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.exit(wait::LATER).await
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let (name, child) = (&self.name, &mut self.child);
        wait::until(&format!("the end of {name}"), limit, || {
            let status = child.try_wait().expect("the process can be asked");
            async move { status }
        })
        .await
    }

    /// Returns the largest resident memory the process had so far, in bytes.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()).expect("a peak");
        kilobytes.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(30).collect();
            eprintln!("--- the last lines of {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Returns the path of a program of this workspace, built with the tests.
///
/// # Panics
///
/// When it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    // target/<profile>/deps/<test>
    let directory = test.parent().and_then(Path::parent).expect("the test lies in target");
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// Returns the root of the repository.
///
/// # Panics
///
/// Never: this crate is below it.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Makes a command whose search path includes the directories of Debian's servers.
#[must_use]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    for (name, _) in std::env::vars() {
        if name.starts_with("SLIPWAY_") && name != "SLIPWAY_BASE_CACHE" {
            command.env_remove(name);
        }
    }
    command
}
