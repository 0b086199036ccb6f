// SPDX-License-Identifier: Apache-2.0

//! A proxy that counts the bytes from clients. Nothing is timed through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How much is passed on at once, in bytes.
const PIECE: usize = 256 * 1024;

/// Passes connections on to a server and counts the bytes sent to it.
pub(super) struct Counting {
    /// `127.0.0.1:<port>`.
    pub(super) address: String,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Counting {
    pub(super) async fn before(server: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr().context("no free port")?.to_string();
        let (sent, server) = (Arc::new(AtomicU64::new(0)), server.to_owned());
        let counter = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            // Ends what it holds when it is dropped.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, server.clone(), Arc::clone(&counter)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, sent, task })
    }

    /// Returns how many bytes were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: String, sent: Arc<AtomicU64>) {
    let Ok(upstream) = TcpStream::connect(&server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let there = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = from_client.read(&mut piece).await {
            if to_server.write_all(&piece[..read]).await.is_err() {
                return;
            }
            sent.fetch_add(read as u64, Ordering::Relaxed);
        }
        // Ends the direction for the server, which may have gone.
        let _gone = to_server.shutdown().await;
    };
    let back = async move { tokio::io::copy(&mut from_server, &mut to_client).await };
    // When the server hangs up, so does the proxy.
    tokio::select! {
        () = async { there.await; std::future::pending::<()>().await } => {}
        _ended = back => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_counted_and_what_comes_back_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = server.local_addr().expect("a port").to_string();
        let proxy = Counting::before(&address).await.expect("it starts");
        let answering = tokio::spawn(async move {
            let (mut connection, _) = server.accept().await.expect("a connection");
            let mut question = [0; 5];
            connection.read_exact(&mut question).await.expect("a question");
            connection.write_all(b"a long answer").await.expect("it is sent");
        });
        let mut client = TcpStream::connect(&proxy.address).await.expect("it connects");
        client.write_all(b"hello").await.expect("it is sent");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an answer");
        answering.await.expect("it answers");
        assert_eq!((answer.as_slice(), proxy.sent()), (b"a long answer".as_slice(), 5));
    }
}
