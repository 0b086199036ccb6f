// SPDX-License-Identifier: Apache-2.0

//! The binary `slipway-bench`: measures images and the queue, writes a report, and ends with the
//! line `bench: K of N goals met`. The exit code is 0 also when goals are missed, and 1 when
//! something could not be measured at all.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use slipway_loadtest::image::{self, ImageOptions, measure};
use slipway_loadtest::machine::{Span, machine, versions};
use slipway_loadtest::queue::{self, Group, QueueOptions, empty};
use slipway_loadtest::report::{Report, table};
use slipway_loadtest::row::Row;
use tokio::signal::unix::{SignalKind, signal};

/// Measures how fast images are built, and how fast the queue is
#[derive(Debug, Parser)]
#[command(name = "slipway-bench", version = slipway_version::version!())]
struct Arguments {
    /// The measurements.
    #[command(subcommand)]
    command: Command,
    /// Directory of the report
    #[arg(long, global = true, value_name = "DIR", default_value = "loadtest/results")]
    results: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How fast images are built, compared with other programs
    Image(ImageOptions),
    /// Measure the queue
    Queue(QueueArguments),
    /// Both
    All(ImageOptions),
    /// Run a worker whose image stages are empty
    #[command(name = empty::COMMAND, hide = true)]
    EmptyWorker(empty::Options),
    /// Run the commands of a plan and print their cost
    #[command(name = measure::MEASURED, hide = true)]
    Measured {
        /// The plan
        plan: PathBuf,
    },
}

/// What to measure of the queue.
#[derive(Debug, Args)]
struct QueueArguments {
    /// Fewer builds, to check that it works
    #[arg(long)]
    quick: bool,
    /// Only this group of measurements
    #[arg(long, value_name = "GROUP")]
    only: Option<Group>,
    /// Directory of the programs (default: that of this one)
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

impl QueueArguments {
    fn options(&self) -> anyhow::Result<QueueOptions> {
        let options = if self.quick { QueueOptions::quick() } else { QueueOptions::standard() };
        let mut options = options?;
        if let Some(programs) = &self.programs {
            options.programs.clone_from(programs);
        }
        options.only = self.only;
        Ok(options)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Command::Measured { plan } = &arguments.command {
        return measure::run_plan(plan);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    if let Command::EmptyWorker(options) = arguments.command {
        return runtime.block_on(empty::run(options));
    }
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("no signals can be heard")?;
        // Ending the future ends the processes that it started.
        tokio::select! {
            report = run(arguments.command) => report,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    let path = report.write(&arguments.results).with_context(|| {
        format!("the report cannot be written in {}", arguments.results.display())
    })?;
    println!("{}", shown(&report.rows));
    println!("bench: written to {}", path.display());
    println!("{}", report.verdict());
    Ok(())
}

/// Writes all tables for a terminal.
fn shown(rows: &[Row]) -> String {
    let mut text = String::new();
    for part in rows.chunk_by(|one, next| one.section == next.section) {
        let rows: Vec<&Row> = part.iter().collect();
        text.push_str(&format!("{}\n\n{}\n", part[0].section, table(&rows)));
    }
    text
}

async fn run(command: Command) -> anyhow::Result<Report> {
    let (part, quick) = match &command {
        Command::Image(options) => ("-image", options.quick),
        Command::Queue(options) => ("-queue", options.quick),
        Command::All(options) => ("", options.quick),
        Command::EmptyWorker(_) | Command::Measured { .. } => {
            unreachable!("they measure nothing")
        }
    };
    let (images, queue) = match command {
        Command::Image(options) => (Some(options), None),
        Command::Queue(arguments) => (None, Some(arguments.options()?)),
        Command::All(image) => {
            let (quick, programs) = (image.quick, image.programs.clone());
            let arguments = QueueArguments { quick, only: None, programs };
            (Some(image), Some(arguments.options()?))
        }
        Command::EmptyWorker(_) | Command::Measured { .. } => {
            unreachable!("they measure nothing")
        }
    };
    let date = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let machine = machine();
    let seed = images.as_ref().map_or(0, |options| options.seed);
    let (mut rows, mut samples) = (Vec::new(), Vec::new());
    let mut stolen = Vec::new();
    if let Some(options) = &images {
        let span = Span::begin();
        let measured = Box::pin(image::run(options)).await.context("images")?;
        stolen.push(format!("{} % (images)", span.stolen_percent()));
        rows.extend(measured.rows);
        samples = measured.samples;
    }
    if let Some(options) = &queue {
        let span = Span::begin();
        rows.extend(Box::pin(queue::run(options)).await.context("the queue")?);
        stolen.push(format!("{} % (queue)", span.stolen_percent()));
    }
    let svg = image::drawing(&samples, &date, &machine);
    let methods =
        [images.is_some().then_some(image::METHOD), queue.is_some().then_some(queue::METHOD)];
    let method = methods.into_iter().flatten().collect();
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    Ok(Report {
        name: format!("{date}{part}{}", if quick { "-quick" } else { "" }),
        date,
        command: format!("slipway-bench {command}"),
        seed,
        machine,
        stolen: format!("of the processor time wanted, its host took: {}", stolen.join(", ")),
        versions: versions(),
        rows,
        samples,
        method,
        svg,
    })
}
