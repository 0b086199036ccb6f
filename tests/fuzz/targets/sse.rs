// SPDX-License-Identifier: Apache-2.0

//! Any bytes as a stream of server-sent events, cut into pieces of any size.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The file and not its crate: that would bring an HTTP client and TLS, minutes of compiling.
#[path = "../../../crates/client/src/sse.rs"]
mod sse;

use sse::{SseEvent, SseParser};

fuzz_target!(|bytes: &[u8]| {
    let (events, last_id) = read(bytes, bytes.len().max(1));
    for size in [1, 2, 3, 7] {
        assert_eq!(read(bytes, size), (events.clone(), last_id.clone()), "in pieces of {size}");
    }
    for event in &events {
        assert!(!event.name.is_empty());
        assert!(!event.id.as_ref().is_some_and(|id| id.contains(['\0', '\r', '\n'])));
        assert!(!event.data.contains('\r') && !event.name.contains(['\r', '\n']));
    }
    // Events that are written as the specification says are the same events.
    let mut written = String::new();
    for SseEvent { name, id, data } in &events {
        if let Some(id) = id {
            written += &format!("id: {id}\n");
        }
        written += &format!("event: {name}\n");
        for line in data.split('\n') {
            written += &format!("data: {line}\n");
        }
        written.push('\n');
    }
    assert_eq!(read(written.as_bytes(), written.len().max(1)).0, events, "written, they differ");
});

fn read(bytes: &[u8], size: usize) -> (Vec<SseEvent>, Option<String>) {
    let mut parser = SseParser::default();
    let pieces = bytes.chunks(size);
    let events = pieces.flat_map(|piece| parser.push(piece).expect("an event is small")).collect();
    (events, parser.last_id().map(str::to_owned))
}
