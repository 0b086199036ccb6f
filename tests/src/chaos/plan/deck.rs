// SPDX-License-Identifier: Apache-2.0

//! The kinds of faults, as cards: all are dealt before any is dealt again.

use super::{DISPATCHERS, Fault, MISBEHAVIOURS, Planned, Shape, Subject, Target, WORKERS};
use crate::chaos::random::Random;

/// Failpoints that a dispatcher passes.
const DISPATCHER_POINTS: [&str; 7] = [
    "accept.created",
    "accept.queued",
    "accept.announced",
    "cancel.recorded",
    "cancel.announced",
    "replay.recorded",
    "replay.queued",
];

/// Failpoints that a worker passes.
const WORKER_POINTS: [&str; 15] = [
    "claim.received",
    "claim.claimed",
    "claim.announced",
    "commit.pushed",
    "commit.publishing",
    "tag.claimed",
    "tag.written",
    "commit.tagged",
    "commit.succeeded",
    "commit.announced",
    "settle.before_record",
    "settle.recorded",
    "settle.announced",
    "dead.announced",
    "dead.buried",
];

/// Failpoints where a worker that comes back too late could do harm.
const FREEZING_POINTS: [&str; 9] = [
    "claim.received",
    "claim.claimed",
    "commit.pushed",
    "commit.publishing",
    "tag.claimed",
    "tag.written",
    "commit.tagged",
    "commit.succeeded",
    "settle.before_record",
];

/// How long a process may take to reach its failpoint before it is killed.
const CRASH_DEADLINE_MS: u64 = 10_000;

/// A kind of fault. Its targets and times are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A dispatcher is killed.
    KillDispatcher,
    /// A worker is killed.
    KillWorker,
    /// A NATS server is killed.
    KillNats,
    /// The registry is killed.
    KillRegistry,
    /// The leader of the queue is killed.
    KillLeader,
    /// All NATS servers are killed.
    KillAllNodes,
    /// A worker is stopped for longer than its lease.
    StopWorkerPastLease,
    /// A worker is stopped for less than its lease.
    StopWorker,
    /// A dispatcher is stopped.
    StopDispatcher,
    /// A NATS server is stopped.
    StopNats,
    /// A dispatcher is cut off.
    PartitionDispatcher,
    /// A worker is cut off.
    PartitionWorker,
    /// Connections are reset.
    Reset,
    /// The registry misbehaves in one of its ways.
    Misbehave(&'static str),
    /// The disk is full.
    DiskFull,
    /// A dispatcher crashes at a failpoint.
    CrashDispatcher,
    /// A worker crashes at a failpoint.
    CrashWorker,
    /// A worker is stopped at a failpoint for longer than its lease.
    FreezeWorker,
    /// A worker is cut off before it sends an acknowledgement.
    StrandWorker,
}

/// Returns the kinds that a world of this shape can have.
#[must_use]
pub fn kinds(shape: Shape) -> Vec<Kind> {
    use Kind as K;
    let mut kinds = vec![
        K::KillDispatcher,
        K::KillWorker,
        K::KillNats,
        K::KillRegistry,
        K::StopWorkerPastLease,
        K::StopWorker,
        K::StopDispatcher,
        K::StopNats,
        K::PartitionDispatcher,
        K::PartitionWorker,
        K::Reset,
        K::CrashDispatcher,
        K::CrashWorker,
        K::FreezeWorker,
        K::StrandWorker,
    ];
    kinds.extend(MISBEHAVIOURS.map(K::Misbehave));
    if shape.nodes > 1 {
        kinds.extend([K::KillLeader, K::KillAllNodes]);
    } else {
        kinds.push(K::DiskFull);
    }
    kinds
}

impl Kind {
    /// Returns whether a fault is of this kind.
    #[must_use]
    pub fn made(self, planned: &Planned) -> bool {
        use Target::{Dispatcher, Nats, Registry, Worker};
        match (&planned.fault, self) {
            (Fault::Kill { target: Dispatcher(_) }, Self::KillDispatcher)
            | (Fault::Kill { target: Worker(_) }, Self::KillWorker)
            | (Fault::Kill { target: Nats(_) }, Self::KillNats)
            | (Fault::Kill { target: Registry }, Self::KillRegistry)
            | (Fault::KillLeader, Self::KillLeader)
            | (Fault::KillAllNodes, Self::KillAllNodes)
            | (Fault::Stop { target: Dispatcher(_) }, Self::StopDispatcher)
            | (Fault::Stop { target: Nats(_) }, Self::StopNats)
            | (Fault::Partition { target: Dispatcher(_) }, Self::PartitionDispatcher)
            | (Fault::Partition { target: Worker(_) }, Self::PartitionWorker)
            | (Fault::Reset { .. }, Self::Reset)
            | (Fault::DiskFull, Self::DiskFull)
            | (Fault::Crash { target: Dispatcher(_), .. }, Self::CrashDispatcher)
            | (Fault::Crash { target: Worker(_), .. }, Self::CrashWorker)
            | (Fault::Freeze { .. }, Self::FreezeWorker)
            | (Fault::Strand { .. }, Self::StrandWorker) => true,
            (Fault::Stop { target: Worker(_) }, Self::StopWorkerPastLease) => {
                planned.duration_ms >= 18_000
            }
            (Fault::Stop { target: Worker(_) }, Self::StopWorker) => planned.duration_ms < 18_000,
            (Fault::Misbehave { how, .. }, Self::Misbehave(wanted)) => how == wanted,
            _ => false,
        }
    }

    fn duration_ms(self, random: &mut Random) -> u64 {
        match self {
            Self::KillDispatcher
            | Self::KillWorker
            | Self::KillNats
            | Self::KillRegistry
            | Self::KillLeader
            | Self::KillAllNodes => random.between(200, 3_000),
            Self::StopWorkerPastLease | Self::FreezeWorker => random.between(18_000, 25_000),
            Self::StopWorker => random.between(1_000, 8_000),
            Self::StopDispatcher | Self::StopNats => random.between(2_000, 6_000),
            // Most are short; some last longer than the lease.
            Self::PartitionDispatcher | Self::PartitionWorker => {
                let longest = if random.percent(30) { 20_000 } else { 6_000 };
                random.between(2_000, longest)
            }
            Self::Reset => 100,
            Self::StrandWorker => random.between(2_000, 4_000),
            Self::Misbehave(_) => random.between(2_000, 8_000),
            Self::DiskFull => random.between(2_000, 4_000),
            Self::CrashDispatcher | Self::CrashWorker => CRASH_DEADLINE_MS,
        }
    }

    /// Draws the fault. A crash gets its failpoint when it is dealt.
    fn fault(self, random: &mut Random, shape: Shape) -> Fault {
        let dispatcher = Target::Dispatcher(random.index(DISPATCHERS));
        let worker = Target::Worker(random.index(WORKERS));
        let nats = Target::Nats(random.index(shape.nodes));
        match self {
            Self::KillDispatcher => Fault::Kill { target: dispatcher },
            Self::KillWorker => Fault::Kill { target: worker },
            Self::KillNats => Fault::Kill { target: nats },
            Self::KillRegistry => Fault::Kill { target: Target::Registry },
            Self::KillLeader => Fault::KillLeader,
            Self::KillAllNodes => Fault::KillAllNodes,
            Self::StopWorkerPastLease | Self::StopWorker => Fault::Stop { target: worker },
            Self::StopDispatcher => Fault::Stop { target: dispatcher },
            Self::StopNats => Fault::Stop { target: nats },
            Self::PartitionDispatcher => Fault::Partition { target: dispatcher },
            Self::PartitionWorker => Fault::Partition { target: worker },
            Self::Reset => {
                Fault::Reset { target: if random.percent(50) { dispatcher } else { worker } }
            }
            Self::Misbehave(how) => {
                let percent = u32::try_from(random.between(15, 60)).expect("a percentage");
                Fault::Misbehave { how: how.to_owned(), percent }
            }
            Self::DiskFull => Fault::DiskFull,
            Self::CrashDispatcher => Fault::Crash { target: dispatcher, point: String::new() },
            Self::CrashWorker => Fault::Crash { target: worker, point: String::new() },
            Self::FreezeWorker => Fault::Freeze { target: worker, point: String::new() },
            Self::StrandWorker => Fault::Strand { target: worker },
        }
    }
}

/// Failpoints that have not been dealt yet.
#[derive(Default)]
struct Rest(Vec<&'static str>);

impl Rest {
    fn deal(&mut self, random: &mut Random, all: &[&'static str]) -> &'static str {
        if self.0.is_empty() {
            self.0 = all.to_vec();
            random.shuffle(&mut self.0);
        }
        self.0.pop().expect("there are failpoints")
    }
}

#[derive(Default)]
struct Points {
    dispatcher: Rest,
    worker: Rest,
    freezing: Rest,
}

impl Points {
    fn deal(&mut self, random: &mut Random, fault: &Fault) -> Option<&'static str> {
        match fault {
            Fault::Crash { target: Target::Worker(_), .. } => {
                Some(self.worker.deal(random, &WORKER_POINTS))
            }
            Fault::Crash { .. } => Some(self.dispatcher.deal(random, &DISPATCHER_POINTS)),
            Fault::Freeze { .. } => Some(self.freezing.deal(random, &FREEZING_POINTS)),
            _ => None,
        }
    }
}

/// The cards that are left.
pub(super) struct Deck {
    shape: Shape,
    left: Vec<Kind>,
    points: Points,
}

impl Deck {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, left: Vec::new(), points: Points::default() }
    }

    /// Deals a fault that begins at `at_ms`, is over at `end_ms`, and avoids some subjects.
    pub(super) fn deal(
        &mut self,
        random: &mut Random,
        at_ms: u64,
        end_ms: u64,
        taken: &[Subject],
    ) -> Option<Planned> {
        if self.left.is_empty() {
            self.left = kinds(self.shape);
            // Crashes can happen at many places, so each round has two more of them.
            self.left.extend([Kind::CrashWorker, Kind::CrashWorker]);
            random.shuffle(&mut self.left);
        }
        for index in 0..self.left.len() {
            let kind = self.left[index];
            let duration_ms = kind.duration_ms(random);
            if at_ms + duration_ms > end_ms {
                continue;
            }
            let mut fault = kind.fault(random, self.shape);
            if taken.contains(&fault.subject()) {
                continue;
            }
            if let Some(drawn) = self.points.deal(random, &fault)
                && let Fault::Crash { point, .. } | Fault::Freeze { point, .. } = &mut fault
            {
                drawn.clone_into(point);
            }
            self.left.remove(index);
            return Some(Planned { at_ms, duration_ms, fault });
        }
        None
    }
}
