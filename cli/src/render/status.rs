// SPDX-License-Identifier: Apache-2.0

//! Workers, the queue, repairs, and environments as text.

use slipway_proto::Timestamp;
use slipway_proto::api::{EnvironmentView, QueueView, RepairsView, WorkerView};

use super::{Table, age, size};

/// Writes a list of workers.
#[must_use]
pub fn workers(workers: &[WorkerView], now: Timestamp) -> Vec<String> {
    if workers.is_empty() {
        return vec!["no workers: builds wait until one starts".to_owned()];
    }
    let mut table =
        Table::with_headings(&["ID", "POOL", "BUSY", "CACHE", "STARTED", "VERSION", "STATE"]);
    for worker in workers {
        table.row([
            worker.id.to_string(),
            worker.pool.to_string(),
            format!("{} of {}", worker.running.len(), worker.slots),
            size(worker.cache_bytes),
            age(worker.started_at, now),
            worker.version.clone(),
            if worker.draining { "draining" } else { "ready" }.to_owned(),
        ]);
    }
    table.lines()
}

/// Writes that a worker drains.
#[must_use]
pub fn draining(worker: &WorkerView) -> String {
    let held = match worker.running.len() {
        0 => "it holds no build".to_owned(),
        1 => "it still holds 1 build".to_owned(),
        several => format!("it still holds {several} builds"),
    };
    format!("worker {} drains: {held}", worker.id)
}

/// Writes what a sweep of the reconciler repaired.
#[must_use]
pub fn repairs(repairs: &RepairsView) -> Vec<String> {
    let looked_at = match repairs.unfinished {
        1 => "1 unfinished build looked at".to_owned(),
        several => format!("{several} unfinished builds looked at"),
    };
    let mut table = Table::default();
    for (count, what) in [
        (repairs.enqueued, "requests put back into the queue"),
        (repairs.queued_events, "missing queued events published"),
        (repairs.started_events, "missing started events published"),
        (repairs.finished_events, "missing finished events published"),
        (repairs.dead_letters, "requests moved to the dead letters"),
        (repairs.messages_removed, "requests of finished builds taken out of the queue"),
        (repairs.timed_out, "builds ended that waited too long"),
        (repairs.superseded, "builds cancelled because a later one supersedes them"),
    ] {
        if count > 0 {
            table.row([format!("  {count}"), what.to_owned()]);
        }
    }
    let repaired = table.lines();
    if repaired.is_empty() {
        return vec![format!("{looked_at}, nothing to repair")];
    }
    std::iter::once(format!("{looked_at}, repaired:")).chain(repaired).collect()
}

/// Writes the depth of the queue.
#[must_use]
pub fn queue(queue: &QueueView) -> Vec<String> {
    let mut table = Table::with_headings(&["POOL", "PRIORITY", "QUEUED", "RUNNING"]);
    for class in &queue.classes {
        table.row([
            class.pool.to_string(),
            class.priority.to_string(),
            class.queued.to_string(),
            class.running.to_string(),
        ]);
    }
    table.row([
        "all".to_owned(),
        String::new(),
        queue.queued.to_string(),
        queue.running.to_string(),
    ]);
    let mut lines = table.lines();
    if queue.dead > 0 {
        lines.push(format!(
            "{} dead: requests that used up their attempts, or cannot be read; `slipway dead list` \
             shows the project's",
            queue.dead
        ));
    }
    lines
}

/// Writes a list of environments.
#[must_use]
pub fn environments(environments: &[EnvironmentView]) -> Vec<String> {
    let mut table = Table::with_headings(&["NAME", "KINDS", "AUTO", "BASE", "DESCRIPTION"]);
    for environment in environments {
        let kinds: Vec<_> = environment.kinds.iter().map(|kind| kind.as_str()).collect();
        table.row([
            environment.name.clone(),
            kinds.join(", "),
            if environment.auto { "yes" } else { "" }.to_owned(),
            environment.base.clone(),
            environment.description.clone(),
        ]);
    }
    table.lines()
}

#[cfg(test)]
mod tests {
    use slipway_proto::Priority;
    use slipway_proto::api::QueueClass;

    use super::*;

    #[test]
    fn a_queue_shows_its_classes_their_sum_and_the_dead() {
        let class = QueueClass {
            pool: "default".parse().expect("a name"),
            priority: Priority::High,
            queued: 3,
            running: 1,
        };
        let view = QueueView { queued: 3, running: 1, classes: vec![class], dead: 2 };
        assert_eq!(
            queue(&view),
            [
                "POOL     PRIORITY  QUEUED  RUNNING",
                "default  high      3       1",
                "all                3       1",
                "2 dead: requests that used up their attempts, or cannot be read; `slipway dead \
                 list` shows the project's",
            ]
        );
    }

    #[test]
    fn repairs_that_were_not_needed_are_not_told() {
        let view = RepairsView { unfinished: 12, ..RepairsView::default() };
        assert_eq!(repairs(&view), ["12 unfinished builds looked at, nothing to repair"]);
        let view = RepairsView { enqueued: 10, dead_letters: 1, unfinished: 1, ..view };
        assert_eq!(
            repairs(&view),
            [
                "1 unfinished build looked at, repaired:",
                "  10  requests put back into the queue",
                "  1   requests moved to the dead letters",
            ]
        );
    }

    fn worker() -> WorkerView {
        WorkerView {
            id: "w-1".parse().expect("a name"),
            version: "0.1.0".into(),
            pool: "default".parse().expect("a name"),
            slots: 4,
            running: vec![slipway_proto::BuildId::fresh()],
            cache_bytes: 1_500_000_000,
            draining: true,
            started_at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        }
    }

    #[test]
    fn workers_show_how_busy_they_are() {
        let now = "2026-01-01T03:00:00Z".parse().expect("a time");
        let lines = workers(&[worker()], now);
        assert_eq!(lines[1], "w-1  default  1 of 4  1.5 GB  3 h ago  0.1.0    draining");
        assert_eq!(workers(&[], now), ["no workers: builds wait until one starts"]);
    }

    #[test]
    fn a_worker_that_drains_shows_what_it_holds() {
        assert_eq!(draining(&worker()), "worker w-1 drains: it still holds 1 build");
        let idle = WorkerView { running: vec![], ..worker() };
        assert_eq!(draining(&idle), "worker w-1 drains: it holds no build");
    }

    #[test]
    fn all_environments_of_the_catalogue_can_be_shown() {
        let catalogue = slipway_proto::environment::Catalogue::default();
        let views: Vec<EnvironmentView> =
            catalogue.environments().iter().map(EnvironmentView::from).collect();
        assert_eq!(environments(&views).len(), views.len() + 1);
    }
}
