// SPDX-License-Identifier: Apache-2.0

//! Debian's docker-registry with an access log, from which the requests of a build are read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command};
use slipway_tests::{http, wait};

/// The log counts as complete when it has not grown for this long, because a line is written after
/// its answer.
const QUIET: Duration = Duration::from_millis(60);

/// A registry with its data on disk.
pub(super) struct Registry {
    /// `127.0.0.1:<port>`.
    pub(super) address: String,
    directory: PathBuf,
    process: Process,
}

/// A request that the registry answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
}

impl Registry {
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let shown = directory.display();
        std::fs::create_dir_all(directory).with_context(|| format!("failed to make {shown}"))?;
        let address = format!("127.0.0.1:{}", free_port());
        // The secret signs the addresses of uploads, which must survive a restart.
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\n\
             http: {{addr: {address:?}, secret: benchmark}}\n",
            directory.join("storage")
        );
        let path = directory.join("config.yml");
        std::fs::write(&path, config).with_context(|| format!("failed to write {shown}"))?;
        let process = spawn(directory);
        let registry = Self { address, directory: directory.to_owned(), process };
        registry.ready().await;
        Ok(registry)
    }

    /// Kills the registry at once.
    pub(super) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data.
    pub(super) async fn restart(&mut self) {
        self.process = spawn(&self.directory);
        self.ready().await;
    }

    async fn ready(&self) {
        let (client, url) = (http::client(), format!("http://{}/v2/", self.address));
        wait::until("the registry", wait::SOON, || http::answers(&client, &url)).await;
    }

    /// Returns the current end of the log.
    pub(super) async fn mark(&self) -> usize {
        let mut length = self.process.output().len();
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.process.output().len();
            if now == length {
                return length;
            }
            length = now;
        }
    }

    /// Returns the requests that were answered since a mark.
    pub(super) async fn since(&self, mark: usize) -> Vec<Request> {
        let end = self.mark().await;
        let log = self.process.output();
        log.get(mark..end).unwrap_or_default().lines().filter_map(parse).collect()
    }

    /// Returns the size of the largest unfinished upload into a repository.
    pub(super) fn upload_bytes(&self, repository: &str) -> u64 {
        let path = "storage/docker/registry/v2/repositories";
        let uploads = self.directory.join(path).join(repository).join("_uploads");
        let entries = std::fs::read_dir(uploads).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| entry.path().join("data").metadata().ok());
        sizes.map(|data| data.len()).max().unwrap_or(0)
    }
}

fn spawn(directory: &Path) -> Process {
    let mut registry = command("docker-registry");
    registry.arg("serve").arg(directory.join("config.yml"));
    Process::start("docker-registry", registry, &directory.join("registry.log"))
}

/// Reads a line of the log, in the "combined" format: address, names, time in brackets, request in
/// quotes, status, size, referrer and client in quotes. Other lines are errors.
fn parse(line: &str) -> Option<Request> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let (method, path) = (request.next()?, request.next()?);
    let status = rest.split(' ').next()?.parse().ok()?;
    Some(Request { method: method.to_owned(), path: path.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_from_the_log() {
        let line = "127.0.0.1 - - [22/Nov/2026:11:25:09 +0000] \"POST /v2/a/b/blobs/uploads/?mount=\
                    sha256%3A1&from=base HTTP/1.1\" 201 0 \"\" \"slipway/0.1.0\"";
        let request = parse(line).expect("it is a request");
        assert_eq!((request.method.as_str(), request.status), ("POST", 201));
        assert_eq!(request.path, "/v2/a/b/blobs/uploads/?mount=sha256%3A1&from=base");
    }

    #[test]
    fn errors_between_them_are_passed_over() {
        let line =
            "time=\"2026-11-22T11:25:09Z\" level=error msg=\"response completed with error\"";
        assert_eq!(parse(line), None);
    }
}
