// SPDX-License-Identifier: Apache-2.0

//! Points at which tests kill or stop a process, and protections that they switch off.
//!
//! In debug builds alone: a release build has neither the names nor the code. `SLIPWAY_FAILPOINTS`
//! names points with what happens there, `accept.created=abort,tag.claimed=stop@2`: the process
//! aborts, or stops as by SIGSTOP, when it reaches the point for the first or n-th time.
//! `SLIPWAY_SWITCH_OFF` names protections, to show that the suites notice when they are missing.

/// Marks a point between two durable steps.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn failpoint(_name: &'static str) {}

/// Returns whether tests have switched a protection off.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub fn is_off(_protection: &'static str) -> bool {
    false
}

#[cfg(debug_assertions)]
pub use armed::{failpoint, is_off, without};

#[cfg(debug_assertions)]
mod armed {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{LazyLock, atomic::AtomicBool};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Stop,
    }

    #[derive(Debug)]
    pub(super) struct Armed {
        pub(super) action: Action,
        /// The number of the pass that triggers it.
        pub(super) at: u32,
        seen: AtomicU32,
    }

    static POINTS: LazyLock<BTreeMap<String, Armed>> =
        LazyLock::new(|| parse(&std::env::var("SLIPWAY_FAILPOINTS").unwrap_or_default()));
    static OFF: LazyLock<Vec<String>> = LazyLock::new(|| {
        let names = std::env::var("SLIPWAY_SWITCH_OFF").unwrap_or_default();
        names.split(',').map(|name| name.trim().to_owned()).collect()
    });
    static SAID: AtomicBool = AtomicBool::new(false);

    thread_local! {
        /// What is switched off on this thread alone.
        static OFF_HERE: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    pub(super) fn parse(text: &str) -> BTreeMap<String, Armed> {
        let armed = text.split(',').filter_map(|point| {
            let (name, what) = point.trim().split_once('=')?;
            let (action, at) = what.split_once('@').unwrap_or((what, "1"));
            let action = match action {
                "abort" => Action::Abort,
                "stop" => Action::Stop,
                _ => return None,
            };
            let at = at.parse().ok()?;
            Some((name.to_owned(), Armed { action, at, seen: AtomicU32::new(0) }))
        });
        armed.collect()
    }

    /// Marks a point between two durable steps.
    pub fn failpoint(name: &'static str) {
        let Some(armed) = POINTS.get(name) else { return };
        if armed.seen.fetch_add(1, Ordering::SeqCst) + 1 != armed.at {
            return;
        }
        tracing::warn!(name, action = ?armed.action, "reached an armed failpoint");
        match armed.action {
            Action::Abort => std::process::abort(),
            Action::Stop => {
                let process = std::process::id().to_string();
                let stopped = std::process::Command::new("kill").args(["-STOP", &process]).status();
                if let Err(error) = stopped {
                    tracing::error!(%error, "the process could not be stopped");
                }
                // Another thread may take the signal, and this one must not continue meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        }
    }

    /// Returns whether tests have switched a protection off.
    #[must_use]
    pub fn is_off(protection: &'static str) -> bool {
        if OFF_HERE.get() == Some(protection) {
            return true;
        }
        let off = OFF.iter().any(|name| name == protection);
        if off && !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(protection, "a protection is switched off");
        }
        off
    }

    /// Runs something with a protection switched off on this thread.
    pub fn without<T>(protection: &'static str, run: impl FnOnce() -> T) -> T {
        let before = OFF_HERE.replace(Some(protection));
        let outcome = run();
        OFF_HERE.set(before);
        outcome
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn points_are_named_with_what_happens_there() {
            let points = parse("accept.created=abort, tag.claimed=stop@2,nonsense,x=fly");
            let of = |name: &str| points.get(name).map(|armed| (armed.action, armed.at));
            assert_eq!(of("accept.created"), Some((Action::Abort, 1)));
            assert_eq!(of("tag.claimed"), Some((Action::Stop, 2)));
            assert_eq!(points.len(), 2);
        }
    }
}
