// SPDX-License-Identifier: Apache-2.0

//! The queue benchmark: how fast builds are accepted, started, followed, cancelled and taken over,
//! without the cost of images.
//!
//! Each group of measurements starts its own nats-server, dispatcher and workers, on free ports and
//! in a temporary directory. The workers run the whole protocol with image stages that do nothing
//! ([`empty`]). The same run measures NATS alone on the same machine.

mod bed;
mod client;
mod drain;
pub mod empty;
mod fanout;
mod method;
mod publish;
mod stops;
mod submit;
mod times;
mod wake;

use std::path::PathBuf;

use crate::row::Row;
use bed::Bed;

pub use method::METHOD;

/// The part of the report that these rows belong to.
const SECTION: &str = "queue";

/// The amount of measurements, and the programs.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The nats-server.
    pub nats_server: PathBuf,
    /// The directory of the program `slipway-dispatcher`.
    pub programs: PathBuf,
    /// Builds submitted one by one, and builds submitted in batches.
    pub submissions: usize,
    /// How long submissions are sent at a fixed rate, in seconds.
    pub open_loop_s: u64,
    /// Builds submitted to an idle fleet.
    pub wakes: usize,
    /// Builds that wait before the workers start.
    pub drained: usize,
    /// Subscribers of events.
    pub subscribers: usize,
    /// Builds that are cancelled while they run.
    pub cancels: usize,
    /// Whether workers are killed, for which at least one lease passes.
    pub kills: bool,
    /// The one group to measure; all if none is given.
    pub only: Option<Group>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// Submissions a second, single and in batches, of a bare publisher's
    Submit,
    /// How long a submission takes at 500 a second
    Latency,
    /// Builds a second with an empty image stage
    Drain,
    /// From acceptance to the first stage in an idle fleet
    Wake,
    /// From an event to its subscribers
    Fanout,
    /// From a cancellation to the end, from a worker's death to the next attempt
    Stops,
}

impl QueueOptions {
    /// Returns the options of a whole run, with the programs in this one's directory.
    ///
    /// # Errors
    ///
    /// When this program's own place is not known.
    pub fn standard() -> anyhow::Result<Self> {
        let mut programs = std::env::current_exe()?;
        programs.pop();
        if programs.ends_with("deps") {
            programs.pop();
        }
        Ok(Self {
            nats_server: PathBuf::from("nats-server"),
            programs,
            submissions: 20_000,
            open_loop_s: 10,
            wakes: 300,
            drained: 10_000,
            subscribers: 1000,
            cancels: 100,
            kills: true,
            only: None,
        })
    }

    fn includes(&self, group: Group) -> bool {
        self.only.is_none_or(|only| only == group)
    }

    /// Returns the options of a run that checks in half a minute that everything works.
    ///
    /// # Errors
    ///
    /// When this program's own place is not known.
    pub fn quick() -> anyhow::Result<Self> {
        Ok(Self {
            submissions: 2000,
            open_loop_s: 2,
            wakes: 50,
            drained: 1000,
            subscribers: 100,
            cancels: 20,
            kills: false,
            ..Self::standard()?
        })
    }
}

/// Measures everything, one after the other.
///
/// # Errors
///
/// When something does not start or an answer is wrong. A missed goal is not an error but a row.
pub async fn run(options: &QueueOptions) -> anyhow::Result<Vec<Row>> {
    bed::allow_many_connections(options.subscribers)?;
    let mut rows = Vec::new();
    let mut ceiling = f64::NAN;
    if options.includes(Group::Submit) || options.includes(Group::Drain) {
        let bed = Bed::start(options).await?;
        let (per_second, row) = publish::measure(&bed, options.submissions).await?;
        ceiling = per_second;
        rows.push(row);
    }
    if options.includes(Group::Submit) {
        let bed = Bed::start(options).await?;
        rows.push(submit::one_by_one(&bed, options.submissions, ceiling).await?);
        rows.push(submit::in_batches(&bed, options.submissions, ceiling).await?);
    }
    if options.includes(Group::Latency) {
        let bed = Bed::start(options).await?;
        rows.push(submit::open_loop(&bed, options.open_loop_s).await?);
    }
    if options.includes(Group::Drain) {
        for shown in [drain::Shown::All, drain::Shown::First] {
            let bed = Bed::start(options).await?;
            rows.push(drain::measure(bed, options.drained, shown, ceiling).await?);
        }
    }
    if options.includes(Group::Wake) {
        let mut bed = Bed::start(options).await?;
        rows.extend(wake::measure(&mut bed, options.wakes).await?);
    }
    if options.includes(Group::Fanout) {
        let bed = Bed::start(options).await?;
        rows.extend(fanout::measure(&bed, options.subscribers).await?);
    }
    if options.includes(Group::Stops) {
        let mut bed = Bed::start(options).await?;
        rows.push(stops::cancelled(&mut bed, options.cancels).await?);
        if options.kills {
            rows.push(stops::killed(&mut bed).await?);
        }
    }
    Ok(rows)
}
