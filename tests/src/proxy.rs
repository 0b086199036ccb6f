// SPDX-License-Identifier: Apache-2.0

//! A TCP proxy that can hold a connection at a chosen moment, and the base of all proxies here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Serves every connection to a port of loopback, until it is dropped.
pub(crate) struct Acceptor {
    /// `127.0.0.1:<port>`, where clients connect.
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Takes a free port and serves each of its connections with `serve`.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port is known").to_string();
        let task = tokio::spawn(async move {
            // Dropping the set ends the connections.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((client, _)) => { connections.spawn(serve(client)); }
                        Err(_) => break,
                    },
                    Some(_ended) = connections.join_next() => {}
                }
            }
        });
        Self { address, task }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts connections, and closes each after its first bytes, or answers it with others.
pub struct Counter {
    connections: Arc<AtomicU32>,
    acceptor: Acceptor,
}

impl Counter {
    /// Starts it. It answers nothing.
    pub async fn start() -> Self {
        Self::answering(b"").await
    }

    /// Starts it with the bytes that it answers to every client.
    pub async fn answering(answer: &'static [u8]) -> Self {
        let connections = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&connections);
        let acceptor = Acceptor::start(move |mut client| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let _first = client.read(&mut [0; 1024]).await;
                // Clients may leave at any time.
                let _sent = client.write_all(answer).await;
            }
        });
        Self { connections, acceptor: acceptor.await }
    }

    /// Returns where clients connect, `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.acceptor.address
    }

    /// Returns how many connected so far.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Passes bytes on to a server. Once a client sends the trigger, its connection is held until the
/// proxy is released.
pub struct Proxy {
    /// `127.0.0.1:<port>`, where clients connect.
    pub address: String,
    held: watch::Receiver<bool>,
    release: watch::Sender<bool>,
    _acceptor: Acceptor,
}

impl Proxy {
    /// Starts a proxy for `server` that holds a connection once the client sends `trigger`.
    ///
    /// # Panics
    ///
    /// When loopback has no free port.
    pub async fn holding(server: &str, trigger: &'static [u8]) -> Self {
        let (hold, held) = watch::channel(false);
        let (release, released) = watch::channel(false);
        let server: Arc<str> = Arc::from(server);
        let hold = Arc::new(hold);
        let acceptor = Acceptor::start(move |client| {
            pass(client, Arc::clone(&server), trigger, Arc::clone(&hold), released.clone())
        })
        .await;
        Self { address: acceptor.address.clone(), held, release, _acceptor: acceptor }
    }

    /// Waits until a connection is held.
    ///
    /// # Panics
    ///
    /// When the proxy is gone.
    pub async fn held(&mut self) {
        self.held.wait_for(|held| *held).await.expect("the proxy runs");
    }

    /// From now on lets everything pass.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

async fn pass(
    client: TcpStream,
    server: Arc<str>,
    trigger: &'static [u8],
    hold: Arc<watch::Sender<bool>>,
    mut released: watch::Receiver<bool>,
) {
    let Ok(upstream) = TcpStream::connect(&*server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
        let bytes = &chunk[..read];
        if !*released.borrow() && bytes.windows(trigger.len()).any(|window| window == trigger) {
            hold.send_replace(true);
            if released.wait_for(|released| *released).await.is_err() {
                break;
            }
        }
        if to_server.write_all(bytes).await.is_err() {
            break;
        }
    }
    back.abort();
}
