// SPDX-License-Identifier: Apache-2.0

//! The resources of the world's processes, read once a second.

use std::time::Duration;

use super::history::{History, What};

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Records the resources of every child of this process, until the task is dropped.
pub(super) async fn sample(history: History) {
    let own = std::process::id();
    loop {
        tokio::time::sleep(SAMPLE_INTERVAL).await;
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

/// Returns the resources of a process, if it is a child and still runs.
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
