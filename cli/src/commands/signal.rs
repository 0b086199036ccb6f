// SPDX-License-Identifier: Apache-2.0

//! The signals by which people and service managers end a command.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// Listens for SIGINT and SIGTERM, which then no longer end the process by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    /// Starts to listen.
    pub(crate) fn listen() -> Self {
        // Without a handler the signal ends the process, as intended.
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Returns the next signal.
    pub(crate) async fn next(&mut self) -> Exit {
        tokio::select! {
            () = receive(&mut self.interrupt) => Exit::Interrupted,
            () = receive(&mut self.terminate) => Exit::Terminated,
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
