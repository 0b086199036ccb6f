// SPDX-License-Identifier: Apache-2.0

//! The signals by which people and service managers stop a program: the first SIGINT or SIGTERM
//! begins a graceful stop, a second one ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Exit;

/// Listens for SIGINT and SIGTERM, which from then on do not end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    /// Starts to listen.
    #[must_use]
    pub fn listen() -> Self {
        // Without a handler the signal ends the process, which is what it asks for.
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            () = receive(&mut self.interrupt) => {}
            () = receive(&mut self.terminate) => {}
        }
    }
}

async fn receive(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Returns a token that the first signal cancels. A second signal ends the process with
/// [`Exit::Interrupted`], whatever it is doing.
#[must_use]
pub fn stop_token() -> CancellationToken {
    let stop = CancellationToken::new();
    let mut signals = Signals::listen();
    let stopping = stop.clone();
    tokio::spawn(async move {
        second_signal(&mut signals, &stopping).await;
        #[expect(clippy::exit, reason = "a second signal means: now")]
        std::process::exit(Exit::Interrupted.code().into());
    });
    stop
}

/// Cancels `stop` at the first signal and returns at the second.
async fn second_signal(signals: &mut Signals, stop: &CancellationToken) {
    signals.next().await;
    tracing::info!("stopping; a second signal ends the process at once");
    stop.cancel();
    signals.next().await;
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn send(signal: &str) {
        let id = std::process::id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal} could not be sent");
    }

    // One test for all: a signal reaches every listener of the process.
    #[tokio::test]
    async fn the_first_signal_of_either_kind_stops_and_only_the_second_ends() {
        for [first, second] in [["INT", "TERM"], ["TERM", "INT"]] {
            let stop = CancellationToken::new();
            let (mut signals, stopping) = (Signals::listen(), stop.clone());
            let ended = tokio::spawn(async move { second_signal(&mut signals, &stopping).await });
            send(first);
            stop.cancelled().await;
            assert!(!ended.is_finished());
            send(second);
            ended.await.expect("it ends without a panic");
        }
    }
}
