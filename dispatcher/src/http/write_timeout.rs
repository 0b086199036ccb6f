// SPDX-License-Identifier: Apache-2.0

//! Closes connections whose client does not read.
//!
//! A streamed answer is produced only as fast as its client reads. A client that reads nothing
//! would hold its connection and the buffers of both sides for ever. The kernel does not close it,
//! because a client that reports a closed window is alive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may leave data unread. A client that follows events comes back with the last
/// id it saw.
pub(crate) const STUCK: Duration = Duration::from_secs(30);

/// Accepts connections that are closed when nothing can be written for a time.
#[derive(Debug)]
pub(crate) struct Impatient<L> {
    listener: L,
    patience: Duration,
}

impl<L> Impatient<L> {
    /// Takes the connections of a listener.
    pub(crate) fn new(listener: L, patience: Duration) -> Self {
        Self { listener, patience }
    }
}

impl<L: Listener> Listener for Impatient<L> {
    type Io = Watched<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (connection, address) = self.listener.accept().await;
        (Watched { connection, patience: self.patience, until: None }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing can be written for a time.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    connection: T,
    patience: Duration,
    /// The deadline of the waiting write. Made by the first write that has to wait, and kept.
    until: Option<(Pin<Box<Sleep>>, bool)>,
}

impl<T: AsyncWrite + Unpin> Watched<T> {
    /// Writes, or notes that it has to wait.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = write(Pin::new(&mut self.connection), cx) {
            if let Some((_, waits)) = &mut self.until {
                *waits = false;
            }
            return Poll::Ready(outcome);
        }
        let patience = self.patience;
        let (until, waits) =
            self.until.get_or_insert_with(|| (Box::pin(tokio::time::sleep(patience)), true));
        if !std::mem::replace(waits, true) {
            until.as_mut().reset(Instant::now() + patience);
        }
        ready!(until.as_mut().poll(cx));
        tracing::info!("closed a connection whose client does not read");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |connection, cx| connection.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |connection, cx| connection.poll_write_vectored(cx, parts))
    }

    /// Returns `false`, so that a chunk of an answer is written from one buffer: passing its size,
    /// its bytes and its end to the kernel one by one costs more than copying a thousand bytes.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection that buffers 16 bytes.
    fn pair() -> (Watched<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (connection, client) = tokio::io::duplex(16);
        (Watched { connection, patience: STUCK, until: None }, client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up_after_a_time() {
        let (mut watched, _client) = pair();
        let started = Instant::now();
        let error = watched.write_all(&[0; 17]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, STUCK));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_slowly_is_not() {
        let (mut watched, mut client) = pair();
        let reads = async {
            let mut bytes = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(STUCK - Duration::from_secs(1)).await;
                client.read_exact(&mut bytes).await.expect("there are some");
            }
        };
        let (written, ()) = tokio::join!(watched.write_all(&[0; 64]), reads);
        written.expect("somebody reads");
    }
}
