// SPDX-License-Identifier: Apache-2.0

//! Memory that the machine holds.
//!
//! A virtual machine may return free memory to its host (`VIRTIO_BALLOON_F_REPORTING`, in Linux
//! `CONFIG_PAGE_REPORTING`). The host then has to supply each page again when it is touched, which
//! takes some 12 us instead of 1. A measurement that touches more memory than the machine keeps
//! measures its host: any program wrote 46 MB to the page cache in 12 ms within the first GiB, and in
//! 150 ms beyond it.

use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How much is touched and released at once, in bytes.
const STEP: u64 = 64 << 20;
/// How much free memory the machine is made to keep ready for the measured programs, in bytes.
const AHEAD: u64 = 768 << 20;
/// How often to look how much they have used.
const INTERVAL: Duration = Duration::from_millis(10);
/// How much available memory is left alone, in bytes.
const LEFT: u64 = 4 << 30;

/// Makes the machine hold as much free memory as one build uses, so that every measurement begins
/// alike.
///
/// # Errors
///
/// When the system does not say how much memory there is, or starts no thread.
pub async fn at_hand() -> io::Result<()> {
    let touched = tokio::task::spawn_blocking(|| Reserve::of(0).map(drop));
    touched.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// Memory that was touched, and is released as the measured programs use memory, so that they get
/// pages that the machine holds. Dropping this value releases the rest.
#[derive(Debug)]
pub struct Reserve {
    /// Dropped, it ends the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reserve {
    /// Touches this many bytes, or as many as the machine can spare. Blocks.
    ///
    /// # Errors
    ///
    /// When the system does not say how much memory there is, or starts no thread.
    pub fn of(bytes: u64) -> io::Result<Self> {
        let spare = Memory::read()?.available.saturating_sub(LEFT);
        let steps = (bytes + AHEAD).min(spare).div_ceil(STEP);
        let steps: Vec<_> = (0..steps).map(|_| touched()).collect();
        let free = Memory::read()?.free;
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("memory".to_owned());
        let thread = thread.spawn(move || let_go(steps, free, &ended))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It returns nothing, and its panic would have been printed.
            let _ended = thread.join();
        }
    }
}

fn touched() -> Vec<u8> {
    let length = usize::try_from(STEP).expect("it fits in the memory");
    // Not zero: zeroed memory is not touched before it is written.
    vec![1; length]
}

/// Keeps [`AHEAD`] more memory free than there was at first, as long as there is some to release.
fn let_go(mut steps: Vec<Vec<u8>>, first: u64, ended: &Receiver<()>) {
    while !steps.is_empty() {
        // If the system cannot be asked any more, the rest is released at the end.
        let free = Memory::read().map_or(u64::MAX, |memory| memory.free);
        for _ in 0..missing(first, free) {
            drop(steps.pop());
        }
        if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Returns how many steps to release, given the free bytes at first and now.
fn missing(first: u64, now: u64) -> u64 {
    (first + AHEAD).saturating_sub(now) / STEP
}

/// The values of `/proc/meminfo` (proc(5)), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    free: u64,
    available: u64,
}

impl Memory {
    fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        Self::parse(&text).ok_or_else(|| io::Error::other("/proc/meminfo says nothing of memory"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 =
                line.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib << 10)
        };
        Some(Self { free: field("MemFree")?, available: field("MemAvailable")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_and_available_memory_are_read() {
        let text =
            "MemTotal:       24684092 kB\nMemFree:             512 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(Memory::parse(text), Some(Memory { free: 512 << 10, available: 1 << 20 }));
        assert_eq!(Memory::parse("MemTotal: 24684092 kB"), None);
        assert!(Memory::read().expect("the system says it").available > 0);
    }

    #[test]
    fn as_much_is_released_as_was_used() {
        assert_eq!(missing(1 << 30, 1 << 30), AHEAD / STEP);
        assert_eq!(missing(1 << 30, (1 << 30) + AHEAD), 0);
        assert_eq!(missing(1 << 30, (1 << 30) + AHEAD - 3 * STEP), 3);
        assert_eq!(missing(0, 1 << 40), 0);
    }
}
