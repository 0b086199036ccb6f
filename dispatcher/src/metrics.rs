// SPDX-License-Identifier: Apache-2.0

//! Counters, written in Prometheus' text format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use slipway_proto::api::{CollectedView, CollectionView, RepairsView};
use slipway_queue::protocol::reconcile;
use slipway_service::Page;

use crate::retention::CollectError;

/// Counters since this dispatcher started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) uploads_stored: AtomicU64,
    pub(crate) uploads_refused: AtomicU64,
    pub(crate) upload_bytes: AtomicU64,
    pub(crate) submits_accepted: AtomicU64,
    pub(crate) submits_repeated: AtomicU64,
    pub(crate) submits_invalid: AtomicU64,
    pub(crate) submits_key_reused: AtomicU64,
    pub(crate) submits_queue_full: AtomicU64,
    pub(crate) submits_unavailable: AtomicU64,
    pub(crate) events_folded: AtomicU64,
    pub(crate) projection_sequence: AtomicU64,
    pub(crate) subscribers_dropped: AtomicU64,
    pub(crate) logs_archived: AtomicU64,
    reconciler_leads: AtomicU64,
    reconciler_unfinished: AtomicU64,
    reconciler_sweeps: AtomicU64,
    repairs: Mutex<RepairsView>,
    collections: [AtomicU64; 2],
    collected: Mutex<Collected>,
}

/// What the last collection found, and what all of them removed.
#[derive(Debug, Default)]
struct Collected {
    last: CollectionView,
    removed: [u64; 5],
    removed_bytes: [u64; 5],
}

/// What is collected, as a label.
const COLLECTED: [&str; 5] = ["artifacts", "logs", "records", "tags", "dead_letters"];

fn by_kind(view: &CollectionView) -> [&CollectedView; 5] {
    [&view.artifacts, &view.logs, &view.records, &view.tags, &view.dead_letters]
}

/// Values that are read on request, not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauges {
    pub(crate) connected: bool,
    pub(crate) server_errors: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) disconnects: u64,
    pub(crate) subscribers: usize,
}

impl Metrics {
    /// Adds one.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes whether this dispatcher is the reconciler, and how many unfinished builds it watches.
    pub(crate) fn set_reconciler(&self, leads: bool, unfinished: u64) {
        self.reconciler_leads.store(u64::from(leads), Ordering::Relaxed);
        self.reconciler_unfinished.store(unfinished, Ordering::Relaxed);
    }

    /// Counts a sweep and its repairs.
    pub(crate) fn count_sweep(&self, repairs: &RepairsView) {
        Self::count(&self.reconciler_sweeps);
        let mut sum = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = reconcile::sum(&sum, repairs);
    }

    /// Counts a collection, and notes what it found.
    pub(crate) fn count_collection(&self, outcome: &Result<CollectionView, CollectError>) {
        let Ok(view) = outcome else { return Self::count(&self.collections[1]) };
        Self::count(&self.collections[0]);
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        collected.last = view.clone();
        if !view.dry_run {
            for (place, kind) in by_kind(view).into_iter().enumerate() {
                collected.removed[place] += kind.removed;
                collected.removed_bytes[place] += kind.removed_bytes;
            }
        }
    }

    /// Writes all of them.
    pub(crate) fn render(&self, gauges: &Gauges) -> String {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut page = Page::default();
        page.family("slipway_uploads_total", "counter", "Uploads of artifacts by outcome.");
        page.sample("outcome", "stored", value(&self.uploads_stored));
        page.sample("outcome", "refused", value(&self.uploads_refused));
        page.family("slipway_upload_bytes_total", "counter", "Bytes of artifacts received.");
        page.plain(value(&self.upload_bytes));
        page.family("slipway_submits_total", "counter", "Build requests by outcome.");
        page.sample("outcome", "accepted", value(&self.submits_accepted));
        page.sample("outcome", "repeated", value(&self.submits_repeated));
        page.sample("outcome", "invalid", value(&self.submits_invalid));
        page.sample("outcome", "key_reused", value(&self.submits_key_reused));
        page.sample("outcome", "queue_full", value(&self.submits_queue_full));
        page.sample("outcome", "unavailable", value(&self.submits_unavailable));
        page.family("slipway_events_folded_total", "counter", "Events folded into the projection.");
        page.plain(value(&self.events_folded));
        page.family("slipway_projection_sequence", "gauge", "Sequence of the last event folded.");
        page.plain(value(&self.projection_sequence));
        page.family("slipway_event_subscribers", "gauge", "Clients that follow events or logs.");
        page.plain(gauges.subscribers as u64);
        page.family(
            "slipway_event_subscribers_dropped_total",
            "counter",
            "Clients that were dropped because they read too slowly.",
        );
        page.plain(value(&self.subscribers_dropped));
        page.family(
            "slipway_logs_archived_total",
            "counter",
            "Logs written to the artifact store.",
        );
        page.plain(value(&self.logs_archived));
        self.render_reconciler(&mut page);
        self.render_collections(&mut page);
        page.family("slipway_nats_connected", "gauge", "Whether NATS is connected.");
        page.plain(u64::from(gauges.connected));
        page.family(
            "slipway_nats_events_total",
            "counter",
            "Events that the NATS server reported out of band; a denied permission shows only \
            here.",
        );
        page.sample("event", "server_error", gauges.server_errors);
        page.sample("event", "slow_consumer", gauges.slow_consumers);
        page.sample("event", "disconnect", gauges.disconnects);
        page.text()
    }

    fn render_collections(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family("slipway_collections_total", "counter", "Collections by outcome.");
        page.sample("outcome", "finished", value(&self.collections[0]));
        page.sample("outcome", "failed", value(&self.collections[1]));
        let collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = by_kind(&collected.last).into_iter().zip(COLLECTED);
        let kinds: Vec<(&CollectedView, &str)> = kinds.collect();
        page.family(
            "slipway_stored_bytes",
            "gauge",
            "What is kept, as this dispatcher's last collection found it.",
        );
        kinds.iter().for_each(|(view, kind)| page.sample("kind", kind, view.found_bytes));
        page.family("slipway_stored_entries", "gauge", "The same, counted.");
        kinds.iter().for_each(|(view, kind)| page.sample("kind", kind, view.found));
        page.family("slipway_stored_bytes_max", "gauge", "How many bytes may be kept.");
        kinds.iter().for_each(|(view, kind)| page.sample("kind", kind, view.max_bytes));
        page.family("slipway_removed_total", "counter", "What collections have removed.");
        (0..kinds.len()).for_each(|at| page.sample("kind", kinds[at].1, collected.removed[at]));
        page.family("slipway_removed_bytes_total", "counter", "The size of that.");
        (0..kinds.len())
            .for_each(|at| page.sample("kind", kinds[at].1, collected.removed_bytes[at]));
    }

    fn render_reconciler(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family(
            "slipway_reconciler_leader",
            "gauge",
            "Whether this dispatcher holds the reconciler's lease.",
        );
        page.plain(value(&self.reconciler_leads));
        page.family(
            "slipway_reconciler_unfinished",
            "gauge",
            "Unfinished builds that the reconciler watches, in the dispatcher that holds its \
            lease.",
        );
        page.plain(value(&self.reconciler_unfinished));
        page.family("slipway_reconciler_sweeps_total", "counter", "Sweeps of the reconciler.");
        page.plain(value(&self.reconciler_sweeps));
        page.family(
            "slipway_reconciler_repairs_total",
            "counter",
            "Repairs by the reconciler after a crash.",
        );
        let repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        page.sample("repair", "enqueued", repairs.enqueued);
        page.sample("repair", "queued_event", repairs.queued_events);
        page.sample("repair", "started_event", repairs.started_events);
        page.sample("repair", "finished_event", repairs.finished_events);
        page.sample("repair", "dead_letter", repairs.dead_letters);
        page.sample("repair", "message_removed", repairs.messages_removed);
        page.sample("repair", "timed_out", repairs.timed_out);
        page.sample("repair", "superseded", repairs.superseded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        Metrics::count(&metrics.submits_accepted);
        let gauges = Gauges {
            connected: true,
            server_errors: 1,
            slow_consumers: 0,
            disconnects: 2,
            subscribers: 3,
        };
        insta::assert_snapshot!(metrics.render(&gauges));
    }
}
