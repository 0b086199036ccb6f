// SPDX-License-Identifier: Apache-2.0

//! When `slipway dev` is ready, and what it prints then: its address and what to try.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use url::Url;

use super::{DEFAULT_LISTEN, DevError, nats};
use crate::output::Output;
use slipway_client::{Client, ClientError, ClientOptions};

/// How long the dispatcher may take to become ready. It folds the events that its projection lacks.
const DISPATCHER_READY_DEADLINE: Duration = Duration::from_secs(60);

/// How often to ask.
const READY_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until the dispatcher serves.
pub(super) async fn wait(address: SocketAddr) -> Result<(), DevError> {
    let failed = |error: ClientError| DevError::Dispatcher {
        what: "does not become ready",
        source: Some(error.into()),
    };
    let server = Url::parse(&format!("http://{address}")).expect("an address is part of a URL");
    let project = "default".parse().expect("it is a name");
    let client = Client::new(ClientOptions { server, project, token: None }).map_err(failed)?;
    let deadline = Instant::now() + DISPATCHER_READY_DEADLINE;
    loop {
        match client.ready().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(failed(error)),
            Err(_) => sleep(READY_CHECK_INTERVAL).await,
        }
    }
}

/// Reports that everything runs.
pub(super) fn tell(output: &Output, address: SocketAddr, nats: &str, data: &Path) {
    if output.is_json() {
        let server = format!("http://{address}");
        output.json_line(&json!({"server": server, "nats": nats, "data_dir": data}));
        return;
    }
    for line in lines(address, nats, data, &program()) {
        output.result(&line);
    }
}

fn lines(address: SocketAddr, nats: &str, data: &Path, program: &str) -> Vec<String> {
    let slipway = if address == DEFAULT_LISTEN {
        program.to_owned()
    } else {
        format!("{program} --server http://{address}")
    };
    vec![
        format!("slipway dev: ready on http://{address}"),
        format!("  queue {nats}, data in {}", data.display()),
        String::new(),
        "Try in another terminal:".to_owned(),
        format!("  {slipway} build app.jar --image 127.0.0.1:5000/app:1 --follow"),
        format!("  {slipway} list"),
        format!("  {slipway} events -f"),
        String::new(),
        "Ctrl-C stops everything; builds, artifacts and the cache are kept.".to_owned(),
    ]
}

/// Returns how to call this program: by name if PATH finds it, else by path.
fn program() -> String {
    let this = std::env::current_exe().and_then(|path| path.canonicalize());
    let found = nats::find("slipway").map(|path| path.canonicalize());
    match (this, found) {
        (Ok(this), Some(Ok(found))) if this == found => "slipway".to_owned(),
        (Ok(this), _) => quoted(this),
        (Err(_), _) => "slipway".to_owned(),
    }
}

fn quoted(path: PathBuf) -> String {
    let text = path.into_os_string().to_string_lossy().into_owned();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_for_scripts_and_three_commands_are_for_people() {
        let told = |address: &str| {
            lines(address.parse().expect("an address"), "nats://n", Path::new("/d"), "slipway")
        };
        let lines = told("127.0.0.1:7070");
        assert_eq!(lines[0], "slipway dev: ready on http://127.0.0.1:7070");
        let commands: Vec<_> = lines.iter().filter(|line| line.starts_with("  slipway ")).collect();
        assert_eq!(commands.len(), 3);
        assert!(commands.iter().all(|command| !command.contains("--server")));
        assert!(told("127.0.0.1:1").contains(&"  slipway --server http://127.0.0.1:1 list".into()));
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("/a/b-1".into()), "/a/b-1");
        assert_eq!(quoted("/a b/it's".into()), r"'/a b/it'\''s'");
    }
}
