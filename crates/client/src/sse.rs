// SPDX-License-Identifier: Apache-2.0

//! Reads `text/event-stream` (WHATWG HTML, "Server-sent events", section 9.2.6), without I/O: bytes
//! go in as they arrive, whole events come out.

/// A larger event is not from a Slipway server.
const MAX_EVENT: usize = 8 << 20;

/// An event of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its type; `message` unless the server names one.
    pub name: String,
    /// The `Last-Event-ID` to continue after it.
    pub id: Option<String>,
    /// Its data, lines joined by `\n`.
    pub data: String,
}

/// Parses a stream.
#[derive(Debug, Default)]
pub struct SseParser {
    buffer: Vec<u8>,
    started: bool,
    name: String,
    data: String,
    has_data: bool,
    /// The id of the event that is being read, or of an earlier one.
    next_id: Option<String>,
    /// The id of the last event that was complete.
    last_id: Option<String>,
}

/// The stream is not one of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_EVENT} bytes")]
pub struct TooLarge;

impl SseParser {
    /// Takes the next bytes and returns the events that they complete.
    ///
    /// # Errors
    ///
    /// When an event is larger than 8 MiB.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some((length, next)) = line_end(&self.buffer[start..]) {
            let line = String::from_utf8_lossy(&self.buffer[start..start + length]).into_owned();
            start += next;
            let line =
                if self.started { line.as_str() } else { line.trim_start_matches('\u{feff}') };
            self.started = true;
            events.extend(self.line(line));
        }
        self.buffer.drain(..start);
        if self.buffer.len() + self.data.len() > MAX_EVENT {
            return Err(TooLarge);
        }
        Ok(events)
    }

    /// Returns the `Last-Event-ID` to continue after everything that was read.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => self.next_id = Some(value.to_owned()),
            // A comment (empty field), `retry`, or something newer.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        // Also without data: in this way a server reports where a stream without events begins.
        self.last_id.clone_from(&self.next_id);
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(SseEvent { name, id: self.last_id.clone(), data })
    }
}

/// Returns the length of the first line and where the next one starts; `None` while the line is
/// not complete. Lines end with `\n`, `\r\n` or `\r`.
fn line_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => Some((end, end + 2)),
        // It may be the first half of `\r\n`.
        (b'\r', None) => None,
        _ => Some((end, end + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, id: Option<&str>, data: &str) -> SseEvent {
        SseEvent { name: name.into(), id: id.map(str::to_owned), data: data.into() }
    }

    const STREAM: &str = "\u{feff}: hello\nretry: 1000\n\nid: 1\nevent: log\ndata: one\ndata:  \
        two\n\n\
                          data: three\r\n\r\nevent: empty\n\nid: 2\ndata\n\ndata: unfinished";

    fn expected() -> Vec<SseEvent> {
        vec![
            event("log", Some("1"), "one\n two"),
            event("message", Some("1"), "three"),
            event("message", Some("2"), ""),
        ]
    }

    #[test]
    fn a_stream_is_taken_apart_into_events() {
        assert_eq!(SseParser::default().push(STREAM.as_bytes()), Ok(expected()));
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_cut() {
        for size in 1..STREAM.len() {
            let mut parser = SseParser::default();
            let events: Vec<SseEvent> = STREAM
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| parser.push(chunk).expect("it is small"))
                .collect();
            assert_eq!(events, expected(), "cut into pieces of {size}");
        }
    }

    #[test]
    fn an_id_counts_once_its_event_is_complete() {
        let mut parser = SseParser::default();
        parser.push(b"id: 6\n\nid: 7\ndata: x\n").expect("it is small");
        assert_eq!(parser.last_id(), Some("6"));
        parser.push(b"\n").expect("it is small");
        assert_eq!(parser.last_id(), Some("7"));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = SseParser::default();
        assert_eq!(parser.push(&vec![b'x'; MAX_EVENT + 1]), Err(TooLarge));
    }
}
