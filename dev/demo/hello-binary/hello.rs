//! Answers every HTTP request with one line, on the port that PORT names.
//!
//! One file of std only, so that it compiles to a static binary with nothing but rustc.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const ANSWER: &str = "hello from a binary\n";
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

unsafe extern "C" {
    safe fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    safe fn _exit(code: i32) -> !;
}

/// The kernel does not end process 1 of a container by a signal that it does not handle.
extern "C" fn stop(_signal: i32) {
    _exit(0);
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // The whole head is read first: closing a socket with unread bytes would reset the connection.
    for line in BufReader::new(&stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let length = ANSWER.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{ANSWER}"
    )
}

fn main() -> std::io::Result<()> {
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    let port = std::env::var("PORT").unwrap_or_else(|_| "8083".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on port {port}");
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(answer) {
            eprintln!("failed to answer: {error}");
        }
    }
    Ok(())
}
