// SPDX-License-Identifier: Apache-2.0

//! The log of a build: as plain text or as a stream of events, whole or followed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Uri};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::app::App;
use crate::events::follow::{self, LogRequest, Piece};
use crate::http::extract::{self, OfBuild, Parameters};
use crate::http::problem::ApiError;
use crate::http::sse;

/// How many pieces wait for a client. A chunk has at most 64 KiB, so a slow reader costs at most 1
/// MiB.
const MAX_CHUNKS_WAITING: usize = 16;

pub(super) async fn read(
    State(app): State<Arc<App>>,
    OfBuild(project, build): OfBuild,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut parameters = Parameters::read(&uri, &["follow"]);
    let follow = parameters.switch("follow", false);
    let events = extract::accepts_event_stream(&headers);
    let skip = if events { last_event_id(&headers, &mut parameters) } else { None };
    parameters.finish()?;
    // Before anything is read, so that the outcome cannot fall in between.
    let subscription = app.feed.subscribe_to_build(build);
    let Some(found) = app.builds.find(&project, build).await? else {
        return Err(ApiError::build_not_found(build));
    };
    let request = LogRequest { project, build, follow, skip: skip.unwrap_or(0) };
    let start = request.skip;
    let (sink, pieces) = mpsc::channel(MAX_CHUNKS_WAITING);
    app.tasks.spawn(follow::send(app.logs(), request, found, subscription, sink));
    Ok(if events { as_events(&app, start, pieces) } else { as_text(pieces) })
}

/// Reads the header of a client that resumes: for logs, a byte offset.
pub(super) fn last_event_id(headers: &HeaderMap, parameters: &mut Parameters) -> Option<u64> {
    let text = extract::header(headers, "last-event-id").filter(|text| !text.is_empty())?;
    let id = text.parse().ok();
    if id.is_none() {
        let detail = "must be the `id` of an event of this stream".to_owned();
        parameters.mistake("Last-Event-ID", "invalid_event_id", detail);
    }
    id
}

/// A log that was cut off. It aborts the body, so that a client sees that the log is incomplete.
#[derive(Debug, thiserror::Error)]
#[error("the log was cut off")]
struct BrokeOff;

fn as_text(pieces: mpsc::Receiver<Piece>) -> Response {
    use futures::StreamExt as _;
    let chunks = ReceiverStream::new(pieces).filter_map(async |piece| match piece {
        Piece::Text { text, .. } => Some(Ok(text)),
        Piece::End(_) => None,
        Piece::Broken => Some(Err(BrokeOff)),
    });
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(CONTENT_TYPE, kind)], Body::from_stream(chunks)).into_response()
}

fn as_events(app: &App, start: u64, mut pieces: mpsc::Receiver<Piece>) -> Response {
    let (sink, frames) = mpsc::channel(MAX_CHUNKS_WAITING);
    app.tasks.spawn(async move {
        let mut framer = Framer { sent: start, rest: BytesMut::new() };
        let mut alive = tokio::time::interval(sse::KEEP_ALIVE);
        alive.reset();
        if sink.send(sse::opening(start)).await.is_err() {
            return;
        }
        loop {
            let frame = tokio::select! {
                piece = pieces.recv() => match piece {
                    Some(Piece::Text { text, end }) => framer.text(&text, end),
                    Some(Piece::End(state)) => {
                        let data = format!("{{\"state\":\"{}\"}}", state.as_str());
                        Some(sse::frame(framer.sent, "end", &data))
                    }
                    // The client comes back by itself.
                    Some(Piece::Broken) | None => return,
                },
                _ = alive.tick() => Some(sse::ALIVE),
            };
            if let Some(frame) = frame
                && sink.send(frame).await.is_err()
            {
                return;
            }
        }
    });
    use futures::StreamExt as _;
    let frames = ReceiverStream::new(frames).map(Ok::<_, std::convert::Infallible>);
    event_stream(Body::from_stream(frames))
}

/// Answers with frames of `text/event-stream` as they arrive.
pub(super) fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    // nginx would otherwise collect events before it passes them on.
    let unbuffered = [("x-accel-buffering", "no")];
    (headers, unbuffered, body).into_response()
}

/// Cuts a log into events. An event is text, and a chunk may end inside a character.
struct Framer {
    /// The offset after the framed bytes.
    sent: u64,
    rest: BytesMut,
}

impl Framer {
    fn text(&mut self, text: &[u8], end: u64) -> Option<Bytes> {
        self.rest.extend_from_slice(text);
        let whole = self.rest.len() - unfinished(&self.rest);
        let whole = self.rest.split_to(whole);
        if whole.is_empty() {
            return None;
        }
        self.sent = end - self.rest.len() as u64;
        Some(sse::frame(self.sent, "log", &String::from_utf8_lossy(&whole)))
    }
}

/// Returns how many bytes at the end are the start of an incomplete character.
fn unfinished(bytes: &[u8]) -> usize {
    match str::from_utf8(bytes) {
        Ok(_) => 0,
        Err(_) => {
            let tail = &bytes[bytes.len().saturating_sub(3)..];
            let start = tail.iter().rposition(|byte| *byte >= 0xC0);
            let Some(start) = start else { return 0 };
            match str::from_utf8(&tail[start..]) {
                Err(error) if error.error_len().is_none() => tail.len() - start,
                _ => 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_waits_for_its_rest() {
        let log = "größer: 漢字 🚢\n".as_bytes();
        for size in 1..log.len() {
            let mut framer = Framer { sent: 0, rest: BytesMut::new() };
            let mut read = 0;
            let mut text = String::new();
            for chunk in log.chunks(size) {
                read += chunk.len() as u64;
                let Some(frame) = framer.text(chunk, read) else { continue };
                let frame = String::from_utf8(frame.to_vec()).expect("a frame is text");
                let (head, data) = frame.split_once("data: ").expect("it has data");
                assert!(head.starts_with(&format!("id: {}\n", framer.sent)));
                text.push_str(data.trim_end_matches('\n'));
            }
            assert_eq!(
                text.trim_end_matches("data: ").replace('\n', ""),
                "größer: 漢字 🚢",
                "{size}"
            );
            assert_eq!(framer.sent, log.len() as u64);
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_wait_for_ever() {
        assert_eq!(unfinished(b"abc\xff"), 0);
        assert_eq!(unfinished(b"abc\xe6\xbc"), 2);
        assert_eq!(unfinished(b"abc\x80\x80\x80\x80"), 0);
    }
}
