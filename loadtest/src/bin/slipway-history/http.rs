// SPDX-License-Identifier: Apache-2.0

//! A minimal HTTP client: one connection and one question after the other, so that the dispatcher is
//! measured and not the client.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for a path and returns status and body.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let status = self.ask(path).await?;
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((status, body))
    }

    /// Requests a path and returns the connection after the answer's head.
    pub(crate) async fn follow(mut self, path: &str) -> anyhow::Result<BufReader<TcpStream>> {
        let status = self.ask(path).await?;
        anyhow::ensure!(status == 200, "{path}: {status}");
        let mut line = String::new();
        while self.stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        Ok(self.stream)
    }

    async fn ask(&mut self, path: &str) -> anyhow::Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: dispatcher\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).context("the connection was closed")?;
        Ok(status.parse()?)
    }
}
