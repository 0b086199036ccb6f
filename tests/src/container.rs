// SPDX-License-Identifier: Apache-2.0

//! Images that run: podman with storage of its own in the directory of a test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::process::command;
use crate::{http, wait};

/// Runs a command to its end, on a thread that may block.
///
/// # Panics
///
/// When the program cannot be run.
pub async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("it does not panic").expect("the program runs")
}

/// Runs a command that must succeed, and returns what it printed.
///
/// # Panics
///
/// When it fails.
pub async fn succeed(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = run(command).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Podman's storage for one test. What it left mounted is unmounted at the end.
#[derive(Debug)]
pub struct Podman {
    directory: PathBuf,
}

impl Podman {
    /// Makes storage in a directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn command(&self) -> Command {
        let mut podman = command("podman");
        podman.arg("--root").arg(self.directory.join("podman"));
        podman.arg("--runroot").arg(self.directory.join("podman-run"));
        podman.args(["--events-backend=none", "--runtime=runc", "--cgroup-manager=cgroupfs"]);
        podman.arg("--storage-driver=overlay");
        podman
    }

    /// Pulls an image from a registry without TLS.
    ///
    /// # Panics
    ///
    /// When podman refuses it.
    pub async fn pull(&self, image: &str) {
        let mut pull = self.command();
        pull.args(["pull", "--tls-verify=false", "--quiet", image]);
        succeed(pull).await;
    }

    fn run_command(&self, options: &[&str], image: &str, arguments: &[&str]) -> Command {
        let mut run = self.command();
        run.args(["run", "--pull=never", "--network=host"]);
        run.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        run.args(options).arg(image).args(arguments);
        run
    }

    /// Runs an image that was pulled to its end, and returns what it wrote, errors last.
    ///
    /// # Panics
    ///
    /// When podman cannot be run.
    pub async fn output(&self, options: &[&str], image: &str, arguments: &[&str]) -> String {
        let options = [&["--rm"][..], options].concat();
        let output = run(self.run_command(&options, image, arguments)).await;
        let written = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Starts a container of an image that was pulled.
    ///
    /// # Panics
    ///
    /// When podman does not start it.
    pub async fn start(&self, options: &[&str], image: &str) -> Container<'_> {
        let options = [&["--detach"][..], options].concat();
        let id = succeed(self.run_command(&options, image, &[])).await.trim().to_owned();
        Container { podman: self, id }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg(self.directory.join("podman/overlay"));
        let _not_mounted = unmount.output();
    }
}

/// A container that is removed at the end of the test.
#[derive(Debug)]
pub struct Container<'a> {
    podman: &'a Podman,
    id: String,
}

impl Container<'_> {
    /// Returns what it wrote so far.
    ///
    /// # Panics
    ///
    /// When podman does not know it.
    pub async fn log(&self) -> String {
        let mut logs = self.podman.command();
        logs.args(["logs", &self.id]);
        let output = run(logs).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut remove = self.podman.command();
        remove.args(["rm", "--force", "--time=0", &self.id]);
        let _gone = remove.output();
    }
}

/// Waits for a successful answer from a URL, and returns it.
pub async fn get(url: &str) -> String {
    let client = http::client();
    wait::until(&format!("an answer from {url}"), wait::LATER, || async {
        let response = client.get(url).send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        response.text().await.ok()
    })
    .await
}
