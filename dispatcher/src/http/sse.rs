// SPDX-License-Identifier: Apache-2.0

//! Frames of `text/event-stream` (WHATWG HTML, section 9.2). Written by hand, because an event is
//! framed once and the same bytes go to every subscriber.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

/// How often a silent stream sends a sign of life. Proxies commonly close after 30 or 60 s.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A comment, which clients ignore.
pub(crate) const ALIVE: Bytes = Bytes::from_static(b": alive\n\n");

/// The first frame: how soon to reconnect after a break, and the id to reconnect with if no event
/// arrives before it.
pub(crate) fn opening(id: u64) -> Bytes {
    format!("retry: 1000\nid: {id}\n\n").into()
}

/// Frames one event. Any line break in `data` separates lines, as the format has no other way.
pub(crate) fn frame(id: u64, event: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + 64);
    write!(text, "id: {id}\nevent: {event}\n").expect("writing to a string does not fail");
    let mut rest = data;
    loop {
        let end = rest.find(['\r', '\n']);
        text.push_str("data: ");
        text.push_str(&rest[..end.unwrap_or(rest.len())]);
        text.push('\n');
        let Some(end) = end else { break };
        let width = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
    }
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_framing() {
        assert_eq!(
            frame(7, "log", "one\ntwo\r\nthree\rfour\n"),
            "id: 7\nevent: log\ndata: one\ndata: two\ndata: three\ndata: four\ndata: \n\n"
        );
        assert_eq!(frame(8, "build.queued", "{}"), "id: 8\nevent: build.queued\ndata: {}\n\n");
    }
}
