// SPDX-License-Identifier: Apache-2.0

//! nats-server as a child process.
//!
//! It gets a process group of its own, so that the terminal's Ctrl-C reaches only this process: the
//! worker must give back what it holds before the queue goes. If `setpriv` is installed
//! (util-linux, always there on Debian), the kernel stops nats-server when this process is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::DevError;
use super::data_dir::DataDir;

/// Debian installs nats-server in a directory that only root's PATH holds.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How long it may take to start. It reads its streams before it listens.
const NATS_START_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to stop before it is killed. Its data survives either.
const NATS_STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How often to look whether it listens.
const NATS_LISTEN_INTERVAL: Duration = Duration::from_millis(10);

/// How much of its log is shown when it does not start.
const SHOWN_LOG_LINES: usize = 5;

/// A running nats-server.
#[derive(Debug)]
pub(super) struct NatsServer {
    child: Child,
    program: PathBuf,
    url: String,
    log: PathBuf,
}

/// What nats-server writes into its ports file.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl NatsServer {
    /// Starts the server and waits until it listens. Must be called from the main thread: for the
    /// kernel, the end of the calling thread is the end of the parent.
    pub(super) async fn start(
        program: PathBuf,
        data: &DataDir,
        port: u16,
    ) -> Result<Self, DevError> {
        let failed = |what: &'static str| move |source| DevError::StartNats { what, source };
        // A new directory each time, because a killed server leaves its file behind.
        let ports = data.join("run");
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir_all(&ports).map_err(failed("make its run directory"))?;
        let log = data.join("nats.log");
        let written = File::create(&log).map_err(failed("make its log file"))?;
        let also_written = written.try_clone().map_err(failed("make its log file"))?;
        let mut command = match find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM"]).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        // -1 lets the server choose a free port and report it. Another process could take a port
        // that we chose before the server listens.
        let port = if port == 0 { "-1".to_owned() } else { port.to_string() };
        command
            .args(["-js", "-a", "127.0.0.1", "-p", &port])
            .arg("-sd")
            .arg(data.join("nats"))
            .arg("--ports_file_dir")
            .arg(&ports)
            .stdin(Stdio::from(data.share_lock()?))
            .stdout(Stdio::from(written))
            .stderr(Stdio::from(also_written))
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(failed("run it"))?;
        let mut server = Self { child, program, url: String::new(), log };
        let deadline = Instant::now() + NATS_START_DEADLINE;
        loop {
            if let Some(url) = read_ports(&ports) {
                server.url = url;
                return Ok(server);
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(server.ended(status));
            }
            if Instant::now() > deadline {
                return Err(DevError::NatsSilent { log: server.log.clone() });
            }
            sleep(NATS_LISTEN_INTERVAL).await;
        }
    }

    /// Returns the URL it listens on.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Returns when the server has ended by itself.
    pub(super) async fn ended_by_itself(&mut self) -> DevError {
        match self.child.wait().await {
            Ok(status) => self.ended(status),
            Err(source) => DevError::StartNats { what: "wait for it", source },
        }
    }

    fn ended(&self, status: ExitStatus) -> DevError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        DevError::NatsEnded { status, log: self.log.clone(), last_lines: last_lines(&text) }
    }

    /// Stops the server.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            // By the server's own option, because this crate forbids the unsafe code of a system
            // call.
            let asked = Command::new(&self.program)
                .arg("--signal")
                .arg(format!("term={pid}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .status();
            if let Ok(Ok(status)) = timeout(NATS_STOP_DEADLINE, asked).await
                && status.success()
                && timeout(NATS_STOP_DEADLINE, self.child.wait()).await.is_ok()
            {
                return;
            }
        }
        tracing::warn!("nats-server does not stop; killing it");
        let _ = self.child.kill().await;
    }
}

fn read_ports(directory: &Path) -> Option<String> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries
        .filter_map(Result::ok)
        // A file that is still being written does not parse yet.
        .filter_map(|entry| std::fs::read(entry.path()).ok())
        .filter_map(|bytes| serde_json::from_slice::<Ports>(&bytes).ok())
        .find_map(|ports| ports.nats.into_iter().next())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..];
    shown.iter().map(|line| format!("\n  {line}")).collect()
}

/// Finds a program in PATH or in the directories for administrators.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_program(candidate))
}

/// Returns whether the path is an executable file.
pub(super) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_file_is_read_once_it_is_complete() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(read_ports(directory.path()), None);
        let file = directory.path().join("nats-server_1.ports");
        std::fs::write(&file, r#"{"nats":["nats://127."#).expect("it is written");
        assert_eq!(read_ports(directory.path()), None);
        std::fs::write(&file, r#"{"nats":["nats://127.0.0.1:4"],"monitoring":[]}"#)
            .expect("it is written");
        assert_eq!(read_ports(directory.path()).as_deref(), Some("nats://127.0.0.1:4"));
    }

    #[test]
    fn programs_are_executable_files() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
        assert!(!is_program(Path::new("/etc/passwd")) && !is_program(Path::new("/etc")));
    }

    #[test]
    fn only_the_end_of_a_log_is_shown() {
        assert_eq!(last_lines("1\n2\n3\n4\n5\n6\n7"), "\n  3\n  4\n  5\n  6\n  7");
        assert_eq!(last_lines(""), "");
    }
}
