// SPDX-License-Identifier: Apache-2.0

//! A server for tests of the client. It answers each request with the next step of a script.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Client, ClientOptions};

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Answers with this status and body.
    Answer(u16, String),
    /// Hangs up without an answer.
    HangUp,
}

impl Step {
    /// Refuses with this status and code.
    pub(super) fn refuse(status: u16, code: &str) -> Self {
        let problem = json!({
            "type": format!("/problems/{code}"), "title": code, "status": status, "detail": "",
            "code": code
        });
        Self::Answer(status, problem.to_string())
    }
}

/// The server. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Scripted {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    pub(super) async fn start(script: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            for step in script {
                let (stream, _) = listener.accept().await.expect("a connection");
                let request = serve(stream, &step).await;
                seen.lock().expect("no test panicked with it").push(request);
            }
        });
        Self { address, requests, task }
    }

    /// Returns a client of the project `team`.
    pub(super) fn client(&self) -> Client {
        let server = format!("http://{}", self.address).parse().expect("a URL");
        let project = "team".parse().expect("a name");
        Client::new(ClientOptions { server, project, token: None }).expect("a client")
    }

    /// Returns method and path of each request so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panicked with it").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request, answers it, closes the connection; returns method, path and key.
async fn serve(stream: TcpStream, step: &Step) -> String {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await.expect("a request");
    let mut request: Vec<&str> = first.split(' ').take(2).collect();
    let (mut key, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = Some(value.to_owned()),
            "content-length" => length = value.parse().expect("a length"),
            _ => {}
        }
    }
    stream.read_exact(&mut vec![0; length]).await.expect("a body");
    if let Step::Answer(status, body) = step {
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        // A client that has gone needs no answer.
        let _ = stream.write_all(answer.as_bytes()).await;
    }
    request.extend(key.as_deref());
    request.join(" ")
}
