// SPDX-License-Identifier: Apache-2.0

//! The cost of commands and resident processes.
//!
//! Commands run below a small process of their own, another instance of this program, which asks
//! the system what its children used. With the benchmark itself as the parent, their peak memory
//! would start at the benchmark's, and its other children would count too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use slipway_tests::process::command;

use crate::samples::{float, milliseconds};

/// The name of the hidden command of the program that runs a [`Plan`].
pub const MEASURED: &str = "measured";

/// Commands to run, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Program and arguments of each.
    pub commands: Vec<Vec<String>>,
    /// The file of their standard output.
    pub output: PathBuf,
    /// Where their standard error goes.
    pub errors: PathBuf,
}

/// A cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock time in milliseconds.
    pub wall_ms: f64,
    /// Processor time in milliseconds, of all processes below.
    pub cpu_ms: f64,
    /// The peak memory of one process, in bytes.
    pub peak_bytes: u64,
}

/// Runs the commands of the plan in a file, as children of this process, and prints what they cost.
///
/// # Errors
///
/// When one of them cannot be run or fails.
pub fn run_plan(path: &Path) -> anyhow::Result<()> {
    let plan = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&plan).context("the plan is not one")?;
    let (output, errors) = (File::create(&plan.output)?, File::create(&plan.errors)?);
    let begun = Instant::now();
    for line in &plan.commands {
        let [program, arguments @ ..] = line.as_slice() else { bail!("an empty command") };
        let mut child = Command::new(program);
        child.args(arguments).stdin(Stdio::null());
        child.stdout(output.try_clone()?).stderr(errors.try_clone()?);
        let status = child.status().with_context(|| format!("{program} cannot be run"))?;
        if !status.success() {
            bail!("{status} of: {}", line.join(" "));
        }
    }
    let wall_ms = milliseconds(begun.elapsed());
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("the system keeps no accounts")?;
    let time = |value: nix::sys::time::TimeVal| {
        let micros = value.tv_sec() * 1_000_000 + value.tv_usec();
        float(u64::try_from(micros).unwrap_or(0)) / 1000.0
    };
    let cost = Cost {
        wall_ms,
        cpu_ms: time(usage.user_time()) + time(usage.system_time()),
        peak_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

/// Runs commands below a process of their own; returns what they cost and what they printed.
pub(super) async fn run(
    directory: &Path,
    commands: Vec<Vec<String>>,
) -> anyhow::Result<(Cost, String)> {
    let plan = Plan {
        commands,
        output: directory.join("measured.out"),
        errors: directory.join("measured.err"),
    };
    let path = directory.join("measured.json");
    fs::write(&path, serde_json::to_vec(&plan)?).context("failed to write the plan")?;
    let own = std::env::current_exe().context("this program has no path")?;
    let mut runner = command(own);
    // Other isolations of buildah may not work inside a container.
    runner.arg(MEASURED).arg(&path).env("BUILDAH_ISOLATION", "chroot");
    let ran = tokio::task::spawn_blocking(move || runner.output()).await?;
    let ran = ran.context("this program cannot be run again")?;
    let printed = || fs::read_to_string(&plan.output).unwrap_or_default();
    if !ran.status.success() {
        let errors = fs::read_to_string(&plan.errors).unwrap_or_default();
        bail!("{}{errors}{}", String::from_utf8_lossy(&ran.stderr), printed());
    }
    let cost = serde_json::from_slice(&ran.stdout).context("the cost cannot be read")?;
    Ok((cost, printed()))
}

/// Measures the resources of resident processes.
pub(super) struct Meter {
    processes: Vec<u32>,
    /// What they had used before, together.
    before: Duration,
    /// Whose memory is watched, and how much it held idle.
    memory: (u32, u64),
    begun: Instant,
}

impl Meter {
    /// Starts to watch the processor time of some processes and the memory of one of them, which
    /// counts above what it held idle.
    pub(super) fn start(processes: &[u32], memory: u32, idle_bytes: u64) -> anyhow::Result<Self> {
        // Makes the peak that the system remembers the size of now (proc(5)).
        fs::write(format!("/proc/{memory}/clear_refs"), "5").context("the peak cannot be reset")?;
        let before = processor_time(processes)?;
        let begun = Instant::now();
        Ok(Self { processes: processes.to_vec(), before, memory: (memory, idle_bytes), begun })
    }

    /// Returns the use since the start. The wall-clock time ends with this call; callers that know the
    /// true end set their own.
    pub(super) fn stop(&self) -> anyhow::Result<Cost> {
        let wall_ms = milliseconds(self.begun.elapsed());
        let cpu_ms = milliseconds(processor_time(&self.processes)?.saturating_sub(self.before));
        let (process, idle) = self.memory;
        let peak_bytes = status_bytes(process, "VmHWM:")?.saturating_sub(idle);
        Ok(Cost { wall_ms, cpu_ms, peak_bytes })
    }
}

/// Returns the processor time of processes, with that of threads that have ended.
fn processor_time(processes: &[u32]) -> anyhow::Result<Duration> {
    let one = |process: &u32| -> anyhow::Result<Duration> {
        let id = Pid::from_raw((*process).try_into().context("no process id")?);
        let time = ClockId::pid_cpu_clock_id(id).and_then(ClockId::now);
        Ok(time.with_context(|| format!("process {process} is gone"))?.into())
    };
    processes.iter().map(one).sum()
}

/// Returns how much memory a process holds now, in bytes.
pub(super) fn memory_bytes(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmRSS:")
}

fn status_bytes(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("process {process} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.context("the system does not say how much memory a process has")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_sees_the_work_and_the_memory_of_a_process() {
        let own = std::process::id();
        let idle = memory_bytes(own).expect("it is known");
        let meter = Meter::start(&[own], own, idle).expect("it starts");
        let mut bytes = vec![1_u8; 64 << 20];
        // A thread that has ended when the meter stops counts too.
        let work = || {
            while processor_time(&[own]).expect("it is known")
                < meter.before + Duration::from_millis(20)
            {
                bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
            }
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("it works"));
        let cost = meter.stop().expect("it stops");
        assert!(bytes.contains(&bytes[0]));
        assert!(cost.cpu_ms >= 20.0, "{cost:?}");
        assert!(cost.peak_bytes >= 60 << 20, "{cost:?}");
    }
}
