// SPDX-License-Identifier: Apache-2.0

//! How uploads and stages are shown: bars and a spinner on a terminal, plain lines elsewhere.
//! Always on stderr, so that results can be piped.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::note;
use crate::render;
use slipway_client::{ClientError, Progress};
use slipway_fault::chain;

/// How often a long upload is reported without a terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How often the spinner moves.
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the upload of one file.
#[derive(Debug)]
pub(crate) struct UploadProgress {
    name: String,
    size_bytes: u64,
    bar: Option<ProgressBar>,
    times: Mutex<Option<Times>>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    started: Instant,
    reported: Instant,
}

impl UploadProgress {
    /// Prepares to show an upload; nothing is shown before the first byte.
    pub(crate) fn new(name: &str, size_bytes: u64, on_terminal: bool) -> Self {
        let bar = on_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::hidden());
            let template = "{msg} [{bar:32}] {decimal_bytes}/{decimal_total_bytes} \
                {decimal_bytes_per_sec} {eta}";
            let style = ProgressStyle::with_template(template).expect("the template is constant");
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(format!("uploading {name}"));
            bar
        });
        Self { name: name.to_owned(), size_bytes, bar, times: Mutex::new(None) }
    }
}

impl Progress for UploadProgress {
    fn started(&self) {
        let now = Instant::now();
        let mut times = self.times.lock().expect("nobody panics while holding it");
        let again = times.replace(Times { started: now, reported: now }).is_some();
        match &self.bar {
            Some(bar) => {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.reset();
            }
            None => {
                let again = if again { ", once more" } else { "" };
                let size = render::size(self.size_bytes);
                note(&format!("uploading {} ({size}){again}", self.name));
            }
        }
    }

    fn sent(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            return;
        }
        let mut times = self.times.lock().expect("nobody panics while holding it");
        if let Some(times) = times.as_mut()
            && times.reported.elapsed() >= REPORT_INTERVAL
        {
            times.reported = Instant::now();
            let (sent, size) = (render::size(bytes), render::size(self.size_bytes));
            note(&format!("uploading {}: {sent} of {size}", self.name));
        }
    }

    fn interrupted(&self, reason: &ClientError, pause: Duration) {
        let (reason, pause) = (chain(reason), render::duration(pause));
        let line = format!("uploading {}: {reason}; trying again in {pause}", self.name);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => note(&line),
        }
    }

    fn finished(&self) {
        let times = *self.times.lock().expect("nobody panics while holding it");
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = times.map(|times| times.started.elapsed()).unwrap_or_default();
        let rate = u128::from(self.size_bytes) * 1_000_000 / took.as_micros().max(1);
        note(&format!(
            "uploaded {}: {} in {} ({}/s)",
            self.name,
            render::size(self.size_bytes),
            render::duration(took),
            render::size(u64::try_from(rate).unwrap_or(u64::MAX))
        ));
    }
}

/// Shows the state of a build.
#[derive(Debug)]
pub(crate) struct StageProgress {
    spinner: Option<ProgressBar>,
    last: String,
}

impl StageProgress {
    /// Prepares to show a build.
    pub(crate) fn new(on_terminal: bool) -> Self {
        let spinner = on_terminal.then(|| {
            let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            spinner.set_style(style.expect("the template is constant"));
            spinner
        });
        Self { spinner, last: String::new() }
    }

    /// Shows the current state of the build.
    pub(crate) fn show(&mut self, state: &str) {
        if self.last == state {
            return;
        }
        state.clone_into(&mut self.last);
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(self.last.clone());
                spinner.enable_steady_tick(SPINNER_INTERVAL);
            }
            None => note(state),
        }
    }

    /// Writes a line that stays.
    pub(crate) fn note(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => note(line),
        }
    }
}

impl Drop for StageProgress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
