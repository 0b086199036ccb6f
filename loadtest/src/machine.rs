// SPDX-License-Identifier: Apache-2.0

//! The machine: its description, and whether it is idle.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use slipway_tests::process::command;

/// How long the machine must be idle before a measurement.
const WINDOW: Duration = Duration::from_millis(250);
/// The share of idle processor time that a measurement needs.
const IDLE_PERCENT: u64 = 90;

/// Describes the machine in one line.
#[must_use]
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// Describes the versions of the programs that take part.
#[must_use]
pub fn versions() -> String {
    let programs = [
        ("docker-registry", "--version"),
        ("nats-server", "--version"),
        ("curl", "--version"),
        ("umoci", "--version"),
        ("skopeo", "--version"),
        ("buildah", "--version"),
        ("podman", "--version"),
    ];
    let version = |(program, flag): (&str, &str)| {
        let output = command(program).arg(flag).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_whitespace().find(|word| is_version(word))?;
        Some(format!("{program} {}", number.trim_start_matches('v')))
    };
    programs.into_iter().filter_map(version).collect::<Vec<_>>().join(", ")
}

fn is_version(word: &str) -> bool {
    let word = word.trim_start_matches('v');
    word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
}

/// Waits until the machine is idle, and returns whether it was still busy at the limit. Written data
/// is synced to the disk first, so that the next measurement does not pay for it.
pub async fn settle(limit: Duration) -> bool {
    // If it fails the measurement is only noisier.
    let _written = tokio::task::spawn_blocking(|| Command::new("sync").status()).await;
    let deadline = Instant::now() + limit;
    let mut before = times();
    loop {
        tokio::time::sleep(WINDOW).await;
        let after = times();
        if is_idle(before, after) {
            return false;
        }
        if Instant::now() >= deadline {
            return true;
        }
        before = after;
    }
}

/// A span of time in which the host of a virtual machine may give its processors to others.
#[derive(Debug)]
pub struct Span(Times);

impl Span {
    /// Begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(times())
    }

    /// Returns how much of the processor time that was wanted since then the host gave to others,
    /// in percent. Times and rates are worse by at least as much.
    #[must_use]
    pub fn stolen_percent(&self) -> u64 {
        stolen_percent(self.0, times())
    }
}

/// Processor time since the machine started, in ticks.
#[derive(Debug, Clone, Copy)]
struct Times {
    idle: u64,
    stolen: u64,
    all: u64,
}

fn times() -> Times {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_times(text.lines().next().unwrap_or_default())
}

/// Reads the first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq,
/// steal; what follows is part of user.
fn parse_times(line: &str) -> Times {
    let fields = line.split_whitespace().skip(1).take(8);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    Times {
        idle: ticks.iter().skip(3).take(2).sum(),
        stolen: ticks.get(7).copied().unwrap_or(0),
        all: ticks.iter().sum(),
    }
}

fn is_idle(before: Times, after: Times) -> bool {
    let all = after.all.saturating_sub(before.all);
    after.idle.saturating_sub(before.idle) * 100 >= all * IDLE_PERCENT
}

fn stolen_percent(before: Times, after: Times) -> u64 {
    let idle = after.idle.saturating_sub(before.idle);
    let wanted = after.all.saturating_sub(before.all).saturating_sub(idle);
    let stolen = after.stolen.saturating_sub(before.stolen);
    (stolen * 100 + wanted / 2).checked_div(wanted).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_takes_a_share_of_what_was_wanted() {
        let before = parse_times("cpu  100 0 100 1000 50 0 0 40 30 0");
        let after = parse_times("cpu  150 0 115 1900 90 0 10 65 60 0");
        assert_eq!(stolen_percent(before, after), 25);
        assert_eq!(stolen_percent(before, before), 0, "nothing was wanted");
    }

    #[test]
    fn nine_tenths_idle_are_idle() {
        let before = parse_times("cpu  100 0 100 1000 0 0 0 0 0 0");
        assert!(is_idle(before, parse_times("cpu  104 0 105 1081 10 0 0 0 0 0")));
        assert!(!is_idle(before, parse_times("cpu  104 0 107 1089 0 0 0 0 0 0")));
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let found =
            |text: &str| text.split_whitespace().find(|word| is_version(word)).map(str::to_owned);
        assert_eq!(
            found("docker-registry github.com/docker/distribution 2.8.2+ds1"),
            Some("2.8.2+ds1".into())
        );
        assert_eq!(found("nats-server: v2.9.10"), Some("v2.9.10".into()));
    }
}
