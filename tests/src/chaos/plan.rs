// SPDX-License-Identifier: Apache-2.0

//! The plan of faults: what breaks and when, drawn from the seed alone.
//!
//! Faults are dealt like cards: every kind comes once before any comes again, so that a run of two
//! minutes has seen them all. They come in episodes with two lanes, so at most two faults overlap.
//! After each episode nothing is broken for a while, because a system that is never left alone
//! never shows whether it recovers. Two faults at one time never have the same subject.

mod deck;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::random::Random;
use deck::Deck;
pub use deck::{Kind, kinds};

/// A plan of at least this length holds every kind of fault.
pub const COMPLETE_FROM_S: u64 = 120;

/// How long the world runs before the first fault, and after the last.
const HEAD_MS: u64 = 2_000;
const TAIL_MS: u64 = 3_000;

/// How many plans are drawn to find one with every kind.
const DEALS: u32 = 1_000;

/// The number of dispatchers.
pub const DISPATCHERS: usize = 2;
/// The number of workers.
pub const WORKERS: usize = 3;

/// A process of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A dispatcher.
    Dispatcher(usize),
    /// A worker.
    Worker(usize),
    /// A NATS server.
    Nats(usize),
    /// The registry.
    Registry,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatcher(number) => write!(f, "dispatcher-{}", number + 1),
            Self::Worker(number) => write!(f, "worker-{}", number + 1),
            Self::Nats(number) => write!(f, "nats-{}", number + 1),
            Self::Registry => f.write_str("registry"),
        }
    }
}

/// The fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// A process is killed, and started again at the end.
    Kill {
        /// The process.
        target: Target,
    },
    /// The server that leads the queue's stream is killed, and started again at the end.
    KillLeader,
    /// All NATS servers are killed at once, and started again at the end.
    KillAllNodes,
    /// A process is stopped, and continues at the end.
    Stop {
        /// The process.
        target: Target,
    },
    /// A process is cut off from NATS.
    Partition {
        /// The process.
        target: Target,
    },
    /// A process's connections to NATS are reset.
    Reset {
        /// The process.
        target: Target,
    },
    /// The registry misbehaves.
    Misbehave {
        /// How, as in [`MISBEHAVIOURS`].
        how: String,
        /// The percentage of requests.
        percent: u32,
    },
    /// The disk of NATS is full.
    DiskFull,
    /// A process is killed and started again so that it aborts at a failpoint. After that, or at
    /// the end, it is started as before.
    Crash {
        /// The process.
        target: Target,
        /// The failpoint.
        point: String,
    },
    /// A worker is killed and started again so that it stops at a failpoint, and continues after
    /// another has taken its build.
    Freeze {
        /// The worker.
        target: Target,
        /// The failpoint.
        point: String,
    },
    /// A worker is killed and started again so that it stops before it acknowledges a finished
    /// build, and continues cut off: what it then sends is lost.
    Strand {
        /// The worker.
        target: Target,
    },
}

/// The ways in which the registry can misbehave.
pub const MISBEHAVIOURS: [&str; 9] = [
    "unauthorized",
    "forbidden",
    "too_many_requests",
    "server_error",
    "unavailable",
    "slow",
    "reset_mid_body",
    "lose_answer",
    "wrong_digest",
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { target } => write!(f, "kill {target}"),
            Self::KillLeader => f.write_str("kill the leader of BUILDS"),
            Self::KillAllNodes => f.write_str("kill all NATS servers"),
            Self::Stop { target } => write!(f, "stop {target}"),
            Self::Partition { target } => write!(f, "partition {target} from NATS"),
            Self::Reset { target } => write!(f, "reset connections of {target}"),
            Self::Misbehave { how, percent } => write!(f, "registry: {how} in {percent} %"),
            Self::DiskFull => f.write_str("disk of NATS full"),
            Self::Crash { target, point } => write!(f, "crash {target} at {point}"),
            Self::Freeze { target, point } => write!(f, "freeze {target} at {point}"),
            Self::Strand { target } => write!(f, "strand {target} with its acknowledgement"),
        }
    }
}

/// The subject of a fault. Two faults at one time have different subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Process(Target),
    Nats,
    Misbehaviour,
}

impl Fault {
    /// Returns whether its failpoint is passed only when a build fails.
    pub(crate) fn is_about_failures(&self) -> bool {
        match self {
            Self::Crash { point, .. } | Self::Freeze { point, .. } => {
                point.starts_with("settle.") || point.starts_with("dead.")
            }
            _ => false,
        }
    }

    pub(crate) fn subject(&self) -> Subject {
        match self {
            Self::Kill { target: Target::Nats(_) }
            | Self::Stop { target: Target::Nats(_) }
            | Self::KillLeader
            | Self::KillAllNodes
            | Self::DiskFull => Subject::Nats,
            Self::Misbehave { .. } => Subject::Misbehaviour,
            Self::Kill { target }
            | Self::Stop { target }
            | Self::Partition { target }
            | Self::Reset { target }
            | Self::Crash { target, .. }
            | Self::Freeze { target, .. }
            | Self::Strand { target } => Subject::Process(*target),
        }
    }
}

/// A fault with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When it begins, in milliseconds from the start of the load.
    pub at_ms: u64,
    /// How long it lasts; an upper limit for a crash.
    pub duration_ms: u64,
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{}", ms / 1000, ms % 1000 / 100);
        let (at, lasts) = (seconds(self.at_ms), seconds(self.duration_ms));
        write!(f, "{at:>6} s  {} for {lasts} s", self.fault)
    }
}

/// The properties of the world that the plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many NATS servers there are.
    pub nodes: usize,
}

/// The faults of a run, ordered by start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, seconds: u64, shape: Shape) -> Self {
        let mut random = Random::of_part(seed, 0);
        let mut best = Self { faults: Vec::new() };
        for _ in 0..DEALS {
            let dealt = Self { faults: deal(&mut random, seconds * 1000, shape) };
            if seconds < COMPLETE_FROM_S || dealt.missing(shape).is_empty() {
                return dealt;
            }
            if best.faults.is_empty() || dealt.missing(shape) < best.missing(shape) {
                best = dealt;
            }
        }
        best
    }

    /// Returns the kinds that the plan lacks.
    #[must_use]
    pub fn missing(&self, shape: Shape) -> Vec<Kind> {
        let mut missing = kinds(shape);
        for planned in &self.faults {
            if let Some(index) = missing.iter().position(|kind| kind.made(planned)) {
                missing.remove(index);
            }
        }
        missing
    }

    /// Keeps the faults whose text holds one of some words; all if there are no words.
    pub fn keep(&mut self, words: &[String]) {
        let wanted = |planned: &Planned| {
            let text = planned.fault.to_string();
            words.is_empty() || words.iter().any(|word| text.contains(word.as_str()))
        };
        self.faults.retain(wanted);
    }
}

/// Deals faults until the time is over.
fn deal(random: &mut Random, length_ms: u64, shape: Shape) -> Vec<Planned> {
    let end = length_ms.saturating_sub(TAIL_MS);
    let mut deck = Deck::new(shape);
    let mut faults: Vec<Planned> = Vec::new();
    let mut now = HEAD_MS;
    while now < end {
        let mut lanes = [now, now];
        let count = random.between(4, 9);
        for _ in 0..count {
            let lane = usize::from(lanes[1] < lanes[0]);
            let start = lanes[lane] + random.between(100, 800);
            let overlapping: Vec<Subject> = faults
                .iter()
                .filter(|other| other.at_ms + other.duration_ms + 500 > start)
                .map(|other| other.fault.subject())
                .collect();
            let Some(planned) = deck.deal(random, start, end, &overlapping) else { break };
            lanes[lane] = planned.at_ms + planned.duration_ms;
            faults.push(planned);
        }
        let over = lanes[0].max(lanes[1]);
        if over == now {
            break;
        }
        // A quarter of the whole time is a third of the time with faults.
        now = over + (over - now) * random.between(25, 40) / 100;
    }
    faults.sort_by_key(|planned| planned.at_ms);
    faults
}

#[cfg(test)]
mod tests;
