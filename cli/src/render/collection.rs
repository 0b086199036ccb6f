// SPDX-License-Identifier: Apache-2.0

//! What a collection found and removed, as text.

use std::time::Duration;

use slipway_proto::api::{CollectedView, CollectionView, RemovalReason};

use super::{Table, duration, size};

/// Writes what a collection found and removed.
#[must_use]
pub fn collection(view: &CollectionView) -> Vec<String> {
    let removed = if view.dry_run { "WOULD REMOVE" } else { "REMOVED" };
    let mut table = Table::with_headings(&["WHAT", "FOUND", "KEPT AT MOST", "NEEDED", removed]);
    for (name, kind) in [
        ("artifacts", &view.artifacts),
        ("archived logs", &view.logs),
        ("live records", &view.records),
        ("owners of tags", &view.tags),
        ("dead letters", &view.dead_letters),
    ] {
        let CollectedView { found, found_bytes, needed, .. } = *kind;
        table.row([
            name.to_owned(),
            counted(found, found_bytes),
            format!("{}, {}", size(kind.max_bytes), duration(Duration::from_secs(kind.max_age_s))),
            needed.to_string(),
            counted(kind.removed, kind.removed_bytes),
        ]);
    }
    let mut lines = table.lines();
    let mut named = Table::default();
    for artifact in &view.removed_artifacts {
        let reason = match artifact.reason {
            RemovalReason::Deleted => "no project has it",
            RemovalReason::Age => "not used for too long",
            RemovalReason::Size => "least recently used",
        };
        named.row([artifact.digest.to_string(), size(artifact.size_bytes), reason.to_owned()]);
    }
    lines.extend(named.lines());
    lines
}

fn counted(count: u64, bytes: u64) -> String {
    match count {
        0 => "0".to_owned(),
        count => format!("{count} ({})", size(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_removed_is_told_from_what_was() {
        let artifacts = CollectedView {
            found: 3,
            found_bytes: 3_000_000,
            removed: 1,
            removed_bytes: 1_000_000,
            needed: 2,
            max_bytes: 2_000_000,
            max_age_s: 7 * 86_400,
        };
        let view = CollectionView { dry_run: true, artifacts, ..CollectionView::default() };
        let lines = collection(&view);
        assert!(lines[0].ends_with("WOULD REMOVE"), "{lines:?}");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>().join(" "),
            "artifacts 3 (3.0 MB) 2.0 MB, 7 d 0 h 2 1 (1.0 MB)"
        );
        let done = collection(&CollectionView { dry_run: false, ..view });
        assert!(done[0].ends_with("  REMOVED"), "{done:?}");
    }
}
