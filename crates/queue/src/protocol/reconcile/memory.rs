// SPDX-License-Identifier: Apache-2.0

//! What the reconciler remembers between sweeps: unfinished builds, finished ones until they were
//! checked once, and the newest build of each supersede key that others may have to give way to.
//! Each takes a few hundred bytes.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::SignedDuration;
use slipway_proto::{BuildId, PoolName, Priority, ProjectName, Timestamp};
use tokio::time::Instant;

use super::view::{Facts, Repair, UNCHANGED_FOR, View};
use crate::record::{Seen, Stored};

/// How many builds one sweep examines. The rest wait for the next sweep: there can be very many
/// after a long time without a dispatcher. Every build is examined twice after its end, so one
/// sweep in 5 s keeps up with 5,000 builds a second.
const MAX_DUE: usize = 50_000;

/// How long a class must seem stranded before its requests are queued again.
const SUSPECTED_FOR: SignedDuration = SignedDuration::from_secs(10);

/// How long the newest build of a supersede key is remembered while no waiting or running build
/// could have to give way.
const KEY_REMEMBERED_FOR: SignedDuration = SignedDuration::from_mins(10);

type Key = (ProjectName, Box<str>);

/// The newest build of a supersede key.
#[derive(Debug, Clone, Copy)]
struct Newest {
    build: BuildId,
    order: u64,
    queued_since: Timestamp,
    seen_at: Timestamp,
}

/// A build that a sweep must examine.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) view: View,
    pub(super) superseded_by: Option<BuildId>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct Memory {
    views: HashMap<(ProjectName, BuildId), View>,
    newest: HashMap<Key, Newest>,
    /// The earliest time of the next listing of the queue.
    pub(super) list_again: Option<Instant>,
    /// The classes that seemed stranded at the last look, with its time.
    suspects: Option<(Timestamp, Classes)>,
}

/// Pools and priorities.
pub(super) type Classes = BTreeSet<(PoolName, Priority)>;

impl Memory {
    /// Notes a change that was read at `now`.
    pub fn note(&mut self, seen: Seen, now: Timestamp) {
        match seen {
            Seen::Record(record) => self.record(&record, now),
            Seen::Removed(project, build) => self.forget(&project, build),
            Seen::Other => {}
        }
    }

    fn record(&mut self, record: &Stored, now: Timestamp) {
        let view = match View::read(record, now) {
            Ok(view) => view,
            Err(error) => {
                let revision = record.revision;
                tracing::warn!(%error, revision, "skipped a record that does not parse");
                return;
            }
        };
        let key = (view.project.clone(), view.build);
        if self.views.get(&key).is_some_and(|known| known.revision >= view.revision) {
            // Read again by a reopened reader.
            return;
        }
        if let Some(name) = &view.supersede_key {
            let newest = Newest {
                build: view.build,
                order: view.order,
                queued_since: view.queued_since,
                seen_at: now,
            };
            let known = self.newest.entry((view.project.clone(), name.clone())).or_insert(newest);
            if known.order < view.order {
                *known = newest;
            }
        }
        self.views.insert(key, view);
    }

    /// Forgets a build.
    pub(super) fn forget(&mut self, project: &ProjectName, build: BuildId) {
        self.views.remove(&(project.clone(), build));
    }

    /// Returns the number of unfinished builds.
    pub fn unfinished(&self) -> u64 {
        self.views.values().filter(|view| !view.is_finished()).count() as u64
    }

    /// Returns whether it is time to check that the server delivers the queue, because some build
    /// should have been taken long ago.
    pub(super) fn asks_for_stranded(&self, now: Timestamp) -> bool {
        let rested = |at: Timestamp| now.duration_since(at) >= SUSPECTED_FOR;
        let may_look = self.suspects.as_ref().is_none_or(|(at, _)| rested(*at));
        may_look && self.views.values().any(|view| view.is_overdue(now))
    }

    /// Returns the classes that were found stranded both now and at the last look. The counts are
    /// read one after the other, so a single finding may be chance.
    pub(super) fn confirm_stranded(&mut self, found: &Classes, now: Timestamp) -> Classes {
        let before = self.suspects.replace((now, found.clone()));
        let before = before.map(|(_, classes)| classes).unwrap_or_default();
        found.intersection(&before).cloned().collect()
    }

    /// Returns the builds to look at now, with those of classes that are stranded, in the order of
    /// acceptance.
    pub(super) fn due(&mut self, stranded: &Classes, now: Timestamp) -> Vec<Due> {
        self.prune(now);
        let due = self.views.values().filter_map(|view| {
            let superseded_by = self.superseded_by(view, now);
            let is_stranded = view.is_overdue(now) && stranded.contains(&view.class);
            let is_due = is_stranded || view.is_due(superseded_by.is_some(), now);
            is_due.then(|| Due { view: view.clone(), superseded_by })
        });
        let mut due: Vec<Due> = due.take(MAX_DUE).collect();
        due.sort_unstable_by_key(|due| due.view.order);
        due
    }

    fn superseded_by(&self, view: &View, now: Timestamp) -> Option<BuildId> {
        let key = (view.project.clone(), view.supersede_key.clone()?);
        let newest = self.newest.get(&key)?;
        let settled = now.duration_since(newest.seen_at) >= UNCHANGED_FOR;
        let gives_way = view.gives_way_to(newest.order, newest.queued_since);
        (settled && gives_way).then_some(newest.build)
    }

    fn prune(&mut self, now: Timestamp) {
        if self.newest.is_empty() {
            return;
        }
        let unfinished = self.views.values().filter(|view| !view.is_finished());
        let wanted: HashSet<(&ProjectName, &str)> = unfinished
            .filter_map(|view| Some((&view.project, view.supersede_key.as_deref()?)))
            .collect();
        self.newest.retain(|(project, name), newest| {
            now.duration_since(newest.seen_at) < KEY_REMEMBERED_FOR
                || wanted.contains(&(project, name.as_ref()))
        });
    }

    /// Notes findings and repairs, unless the build has changed meanwhile.
    pub(super) fn settle(&mut self, due: &Due, facts: &Facts, repairs: &[Repair], now: Timestamp) {
        let key = (due.view.project.clone(), due.view.build);
        let Some(view) = self.views.get_mut(&key) else { return };
        if view.revision != due.view.revision {
            return;
        }
        view.settle(facts, repairs, now);
        if view.is_settled() {
            self.views.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Build, Change};

    use super::*;
    use crate::testing;

    fn record(build: &Build, revision: u64) -> Seen {
        let document = serde_json::to_vec(build).expect("JSON").into();
        Seen::Record(Stored { document, revision })
    }

    fn keyed(key: &str) -> Build {
        let mut build = testing::build();
        build.request.supersede_key = Some(key.to_owned());
        // Its revision says its place.
        build.order = 0;
        build
    }

    fn later(seconds: i64) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(seconds)
    }

    fn given_way(memory: &mut Memory, now: Timestamp) -> Vec<(BuildId, BuildId)> {
        let due = memory.due(&Classes::new(), now);
        due.iter().filter_map(|due| Some((due.view.build, due.superseded_by?))).collect()
    }

    #[test]
    fn a_finished_build_is_looked_at_until_it_is_settled_and_then_forgotten() {
        let mut memory = Memory::default();
        let build = testing::build();
        let cancel = Change::Cancel { message: "no more".into() };
        let ended = build.apply(&cancel, build.accepted_at).expect("it applies");
        memory.note(record(&build, 1), build.accepted_at);
        assert_eq!(memory.unfinished(), 1);
        memory.note(record(&ended, 2), build.accepted_at);
        assert_eq!(memory.unfinished(), 0);
        assert!(memory.due(&Classes::new(), later(1)).is_empty(), "it has not stood still yet");
        let now = later(30);
        let due = memory.due(&Classes::new(), now).pop().expect("it is due");
        assert_eq!(due.view.revision, 2);
        let facts = Facts { in_queue: Some(false), told: Some(None), ..Facts::default() };
        memory.settle(&due, &facts, &[Repair::FinishedEvent], now);
        let due = memory.due(&Classes::new(), now).pop().expect("its event may not arrive");
        memory.settle(&due, &facts, &[], now);
        assert!(memory.views.is_empty());
    }

    #[test]
    fn what_was_found_out_about_an_older_record_does_not_settle_a_newer_one() {
        let mut memory = Memory::default();
        let build = testing::build();
        memory.note(record(&build, 1), build.accepted_at);
        let now = later(30);
        let due = memory.due(&Classes::new(), now).pop().expect("it is due");
        memory.note(record(&build, 2), now);
        let facts = Facts { told: Some(None), ..Facts::default() };
        memory.settle(&due, &facts, &[], now);
        let due = memory.due(&Classes::new(), later(60)).pop().expect("it is due");
        assert!(!due.view.events_settled);
        memory.note(record(&build, 1), later(60));
        assert_eq!(
            memory.due(&Classes::new(), later(60))[0].view.revision,
            2,
            "an old reader brings nothing back"
        );
        memory.note(Seen::Removed(build.request.project.clone(), build.request.build), now);
        assert!(memory.due(&Classes::new(), later(60)).is_empty());
    }

    #[test]
    fn older_builds_give_way_to_the_newest_of_their_key_and_project() {
        let mut memory = Memory::default();
        let (old, new, other) = (keyed("main"), keyed("main"), keyed("feature"));
        let mut elsewhere = keyed("main");
        elsewhere.request.project = "other".parse().expect("a name");
        let now = old.accepted_at;
        for (revision, build) in (1..).zip([&old, &other, &elsewhere, &new]) {
            memory.note(record(build, revision), now);
        }
        assert!(given_way(&mut memory, later(1)).is_empty(), "the dispatcher does it itself");
        let expected = (old.request.build, new.request.build);
        assert_eq!(given_way(&mut memory, later(10)), [expected]);
        assert_eq!(given_way(&mut memory, later(3600)), [expected], "also much later");
        memory.forget(&old.request.project, old.request.build);
        memory.forget(&new.request.project, new.request.build);
        memory.due(&Classes::new(), later(3600));
        assert_eq!(memory.newest.len(), 2, "nobody has to give way any more");
    }

    #[test]
    fn a_build_that_somebody_replayed_stays() {
        let mut memory = Memory::default();
        let (mut old, new) = (keyed("main"), keyed("main"));
        let now = new.accepted_at;
        old.replays = 1;
        old.replayed_at = Some(now + SignedDuration::from_secs(60));
        memory.note(record(&old, 1), now);
        memory.note(record(&new, 2), now);
        assert!(given_way(&mut memory, later(120)).is_empty());
    }
}
