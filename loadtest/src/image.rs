// SPDX-License-Identifier: Apache-2.0

//! The benchmark of images: Slipway, umoci with skopeo, buildah, and the floor, which is one upload
//! of the same bytes by curl.

mod build;
mod check;
mod counting;
mod digests;
mod drawing;
mod elsewhere;
mod fleet;
mod floor;
mod inputs;
mod jar;
mod killed;
pub mod measure;
mod method;
mod place;
mod queued;
mod registry;
mod requests;
mod rows;
mod variants;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum as _;
use slipway_tests::chaos::random::Random;

use crate::inputs::{Base, write_base};
use crate::row::{Goal, Row};
use crate::samples::Sample;
use check::Checks;
use fleet::Fleet;

pub use drawing::drawing;
pub use method::METHOD;
pub use rows::rows;

/// The pool of the worker that runs for the whole benchmark.
const POOL: &str = "bench";
/// The layers of the base image, in bytes.
const BASE_LAYERS: [usize; 2] = [16_000_000, 67_000_000];
/// How many rounds of a quick run.
const QUICK_ROUNDS: u32 = 2;

/// The measurements.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageOptions {
    /// How many times each variant builds in each scenario
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Seed of the inputs and of the order of variants
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Two rounds and fewer inputs, to check that it works
    #[arg(long)]
    pub quick: bool,
    /// Only this
    #[arg(long, value_enum)]
    pub only: Option<Scenario>,
    /// How long to wait for an idle machine before each measurement, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub settle: u64,
    /// Directory of the programs (default: that of this one)
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Directory for data during the run, some 20 GB (default: a temporary directory)
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The JAR: new, one class changed, nothing changed
    Jar,
    /// A WAR and two binaries
    Inputs,
    /// The base image in another registry
    Elsewhere,
    /// 20 and 100 builds in the queue
    Queued,
    /// The registry killed in the middle of an upload
    Killed,
    /// One digest wherever an image is built
    Digests,
}

impl ImageOptions {
    /// Returns how many rounds there are.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        if self.quick { self.rounds.min(QUICK_ROUNDS) } else { self.rounds }
    }
}

/// State that all scenarios share.
struct Bench {
    options: ImageOptions,
    /// The directory of everything that is written.
    directory: PathBuf,
    programs: PathBuf,
    /// How long to wait for an idle machine.
    settle: Duration,
    base: Base,
    fleet: Fleet,
    /// How buildah is called.
    storage: Vec<String>,
    random: Random,
    checks: Checks,
    samples: Vec<Sample>,
    /// Rows of scenarios that report more than samples.
    rows: Vec<Row>,
}

/// The measurements.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The rows of the report.
    pub rows: Vec<Row>,
    /// Every measurement.
    pub samples: Vec<Sample>,
}

/// Measures images.
///
/// # Errors
///
/// When Slipway cannot be started. A scenario that cannot be measured is a row.
pub async fn run(options: &ImageOptions) -> anyhow::Result<Measured> {
    let work = options.work.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("slipway-bench-").tempdir_in(&work);
    let directory = directory.with_context(|| format!("cannot write in {}", work.display()))?;
    let mut bench = Bench::start(options, directory.path()).await?;
    Box::pin(bench.scenarios()).await;
    let mut rows = rows(&bench.samples);
    rows.append(&mut bench.rows);
    rows.extend(bench.checked());
    Ok(Measured { rows, samples: std::mem::take(&mut bench.samples) })
}

impl Bench {
    async fn start(options: &ImageOptions, directory: &Path) -> anyhow::Result<Self> {
        let programs = match &options.programs {
            Some(programs) => programs.clone(),
            None => {
                let own = std::env::current_exe().context("this program has no path")?;
                own.parent().context("this program lies nowhere")?.to_owned()
            }
        };
        for program in ["slipway", "slipway-dispatcher", "slipway-worker"] {
            let path = programs.join(program);
            anyhow::ensure!(path.is_file(), "{} is missing: run `make build`", path.display());
        }
        let layout = directory.join("base");
        let base = tokio::task::spawn_blocking(move || write_base(&layout, BASE_LAYERS)).await?;
        let base = base.context("the base image cannot be written")?;
        let mut fleet = Fleet::start(&programs, &directory.join("slipway")).await?;
        fleet.add_worker(POOL).await?;
        Ok(Self {
            options: options.clone(),
            directory: directory.to_owned(),
            programs,
            settle: Duration::from_secs(options.settle),
            base,
            fleet,
            storage: place::storage(directory),
            random: Random::of_part(options.seed, 0),
            checks: Checks::default(),
            samples: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Measures the scenarios that are wanted. One that cannot be measured becomes a row that is
    /// short, and the others still run.
    async fn scenarios(&mut self) {
        for scenario in Scenario::value_variants() {
            if self.options.only.is_some_and(|only| only != *scenario) {
                continue;
            }
            let measured = match scenario {
                Scenario::Jar => Box::pin(self.jar()).await,
                Scenario::Inputs => Box::pin(self.inputs()).await,
                Scenario::Elsewhere => Box::pin(self.elsewhere()).await,
                Scenario::Queued => Box::pin(self.queued()).await,
                Scenario::Killed => Box::pin(self.killed()).await,
                Scenario::Digests => Box::pin(self.digests()).await,
            };
            if let Err(error) = measured {
                let seen = format!("{error:#}");
                eprintln!("bench: {scenario:?} could not be measured: {seen}");
                self.rows.push(Row {
                    section: "Not measured",
                    name: format!("{scenario:?}"),
                    cells: Vec::new(),
                    goals: vec![Goal::fact("it can be measured", seen, false)],
                });
            }
        }
    }

    /// Returns a directory for one scenario.
    fn part(&self, name: &str) -> anyhow::Result<tempfile::TempDir> {
        let directory = tempfile::Builder::new().prefix(name).tempdir_in(&self.directory);
        directory.context("failed to make a directory")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Writes an input on a thread that may block.
async fn write<F>(write: F) -> anyhow::Result<()>
where
    F: FnOnce() -> std::io::Result<()> + Send + 'static,
{
    tokio::task::spawn_blocking(write).await?.context("an input cannot be written")
}
