// SPDX-License-Identifier: Apache-2.0

//! Ports of loopback for servers.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The first port that Linux gives to outgoing connections, by default.
const FIRST_EPHEMERAL: u16 = 32_768;
/// Below this are the ports of well-known services.
const FIRST: u16 = 10_000;

/// How many ports were tried, from a random start, so that other processes try others.
static LOOKED_AT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));

/// Returns a port that nobody listens on, a different one each time.
///
/// The system gives it to no outgoing connection, so it is still free when a killed server is
/// started again. Nor can a client that is too early connect to itself, which Linux allows when it
/// draws the server's port for the client.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let port = numbered(LOOKED_AT.fetch_add(1, Ordering::Relaxed));
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn numbered(number: u16) -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let end = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    let end = end.filter(|end| *end > FIRST).unwrap_or(FIRST_EPHEMERAL);
    FIRST + number % (end - FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_only_while_nobody_listens() {
        let first = free_port();
        let next = numbered(LOOKED_AT.load(Ordering::Relaxed));
        let _listener = TcpListener::bind(("127.0.0.1", next));
        let second = free_port();
        assert!(first != second && second != next, "{first}, {next}, {second}");
        assert!(TcpListener::bind(("127.0.0.1", second)).is_ok());
    }
}
