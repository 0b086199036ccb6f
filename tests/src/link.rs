// SPDX-License-Identifier: Apache-2.0

//! A network path that can be cut.
//!
//! A cut is not a closed connection: neither side hears anything, not even that the other is gone,
//! and only its own timeouts show it. A link tests how those behave.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use crate::proxy::Acceptor;

/// The path to one server, with an address of its own.
pub struct Link {
    state: watch::Sender<State>,
    acceptor: Acceptor,
}

#[derive(Clone, Copy, Default)]
struct State {
    cut: bool,
    /// Connections of an earlier generation are closed.
    generation: u64,
}

impl State {
    fn passes(self, generation: u64) -> bool {
        !self.cut && self.generation == generation
    }
}

impl Link {
    /// Opens a path to a server, `<host>:<port>`.
    pub async fn to(server: &str) -> Self {
        let (state, watched) = watch::channel(State::default());
        let server: Arc<str> = Arc::from(server);
        let acceptor =
            Acceptor::start(move |client| connect(client, Arc::clone(&server), watched.clone()));
        Self { state, acceptor: acceptor.await }
    }

    /// Returns where clients connect, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.acceptor.address
    }

    /// From now on lets nothing pass in either direction. Connections stay open. New ones are
    /// accepted and go no further.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Closes all connections. New ones pass, unless the link is cut.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Lets new connections pass after a cut. Connections from before are closed, and what waited
    /// in them is lost.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            state.generation += u64::from(state.cut);
            state.cut = false;
        });
    }
}

async fn connect(mut client: TcpStream, server: Arc<str>, state: watch::Receiver<State>) {
    let now = *state.borrow();
    let mut changes = state.clone();
    tokio::select! {
        () = async { let _gone = changes.wait_for(|state| state.generation != now.generation).await; } => {}
        _closed = pass(&mut client, &server, &state, now.generation) => {}
    }
}

async fn pass(
    client: &mut TcpStream,
    server: &str,
    state: &watch::Receiver<State>,
    generation: u64,
) -> Result<(), Error> {
    if !state.borrow().passes(generation) {
        return silence().await;
    }
    let mut upstream = TcpStream::connect(server).await?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = upstream.split();
    tokio::try_join!(
        copy(from_client, to_server, state, generation),
        copy(from_server, to_client, state, generation),
    )?;
    Ok(())
}

/// Copies until the end of the stream, and passes the end on too.
async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    state: &watch::Receiver<State>,
    generation: u64,
) -> Result<(), Error> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut chunk).await;
        if !state.borrow().passes(generation) {
            return silence().await;
        }
        match read? {
            0 => return to.shutdown().await,
            length => write(&mut to, &chunk[..length], state, generation).await?,
        }
    }
}

async fn write(
    to: &mut WriteHalf<'_>,
    mut bytes: &[u8],
    state: &watch::Receiver<State>,
    generation: u64,
) -> Result<(), Error> {
    while !bytes.is_empty() {
        to.writable().await?;
        let written = {
            // Held while writing: when `cut` has returned, nothing more is written.
            let state = state.borrow();
            state.passes(generation).then(|| to.try_write(bytes))
        };
        match written {
            None => return silence().await,
            Some(Ok(length)) => bytes = &bytes[length..],
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

/// A connection that met a cut never passes anything again until it is closed.
async fn silence<T>() -> T {
    std::future::pending().await
}
