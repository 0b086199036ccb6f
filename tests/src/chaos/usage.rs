// SPDX-License-Identifier: Apache-2.0

//! What the processes of the world take, read once a second.

use std::time::Duration;

use super::history::{History, What};

const EVERY: Duration = Duration::from_secs(1);

/// Writes down what every child of this process takes, until the task is dropped.
pub(super) async fn sample(history: History) {
    let own = std::process::id();
    loop {
        tokio::time::sleep(EVERY).await;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if let Some(usage) = usage(id, own) {
                history.note(usage);
            }
        }
    }
}

/// Returns what a process takes if it is a child and still there.
fn usage(id: u32, parent: u32) -> Option<What> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    if field("PPid:")? != parent.to_string() {
        return None;
    }
    let resident = field("VmRSS:")?.parse::<u64>().ok()? * 1024;
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    let process = format!("{} ({id})", field("Name:")?);
    Some(What::Usage { process, resident, files: u64::try_from(files).unwrap_or(u64::MAX) })
}
