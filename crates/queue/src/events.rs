// SPDX-License-Identifier: Apache-2.0

//! Reads the stream `EVENTS`, and identifies it.
//!
//! A reader remembers the last sequence it saw. That number means nothing once the stream was
//! recreated, so the stream's time of creation goes with it.

use async_nats::jetstream::consumer::DeliverPolicy;
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use slipway_proto::subject::EventSubject;
use slipway_proto::{BuildId, ProjectName, Timestamp};

use crate::Queue;
use crate::publish::header;
use crate::query::QueryError;
use crate::read::{Message, ReadError, Reader};
use crate::reconnect::Reconnections;

/// The position of the stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsPosition {
    /// When the stream was created, in nanoseconds since the epoch: the identity of its sequences.
    pub created: i128,
    /// The sequence of the last event.
    pub last_sequence: u64,
}

/// A message of the stream. Subject and headers are read; the payload is parsed by those who need
/// it.
#[derive(Debug, Clone)]
pub struct EventMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How many messages followed it when it was sent.
    pub pending: u64,
    /// When it was stored, by the server's clock.
    pub time: Timestamp,
    /// The project, if its subject names one.
    pub project: Option<ProjectName>,
    /// The build, if its headers name one.
    pub build: Option<BuildId>,
    /// The short type from its subject, as `build.finished`; empty when it has none.
    pub short_type: String,
    /// Its bytes.
    pub payload: Bytes,
}

impl From<Message> for EventMessage {
    fn from(message: Message) -> Self {
        let subject = EventSubject::parse(&message.subject);
        let build = message.header(header::BUILD_ID).and_then(|build| build.parse().ok());
        let (project, short_type) = match subject {
            Some(EventSubject { project, short_type }) => (Some(project), short_type.to_owned()),
            None => (None, String::new()),
        };
        Self {
            sequence: message.sequence,
            pending: message.pending,
            time: message.time,
            project,
            build,
            short_type,
            payload: message.payload,
        }
    }
}

/// Reads events in order, from a point on.
pub struct EventReader {
    reader: Reader,
}

impl EventReader {
    /// Returns how many events were in front of the reader when it was opened.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.reader.pending()
    }

    /// Breaks off for any connection that was made since `reconnections` was, and not only since the
    /// reader was opened: the answer to an earlier question may be about a stream that is gone.
    #[must_use]
    pub fn since(mut self, reconnections: Reconnections) -> Self {
        self.reader.reconnections = reconnections;
        self
    }

    /// Returns at most `max` events that are there, waiting for the first as long as it takes.
    ///
    /// # Errors
    ///
    /// When the server is lost, or the connection was made again; open a new reader behind the last
    /// event that was returned.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<EventMessage>, ReadError> {
        let batch = self.reader.next_batch(max).await?;
        Ok(batch.into_iter().map(EventMessage::from).collect())
    }

    /// Returns the events that are in the stream now, and then ends.
    pub fn until_caught_up(self) -> impl Stream<Item = Result<EventMessage, ReadError>> + Unpin {
        self.reader.until_caught_up().map_ok(EventMessage::from)
    }
}

impl Queue {
    /// Reads the position of the stream of events.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn events_position(&self) -> Result<EventsPosition, QueryError> {
        let stream = self.stream(self.subjects.events_stream()).await?;
        let info = stream.cached_info();
        Ok(EventsPosition {
            created: info.created.unix_timestamp_nanos(),
            last_sequence: info.state.last_sequence,
        })
    }

    /// Reads the events behind a sequence, those of one project or of all.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn read_events(
        &self,
        project: Option<&ProjectName>,
        after: u64,
    ) -> Result<EventReader, ReadError> {
        let filter = match project {
            Some(project) => self.subjects.events_of(project),
            None => self.subjects.events(),
        };
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        let reader = Reader::open(self, &self.subjects.events_stream(), &filter, from).await?;
        Ok(EventReader { reader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, build: Option<&str>) -> EventMessage {
        let headers = build.map(|build| {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(header::BUILD_ID, build);
            headers
        });
        EventMessage::from(Message {
            sequence: 7,
            pending: 0,
            time: Timestamp::UNIX_EPOCH,
            subject: subject.to_owned(),
            headers,
            payload: Bytes::from_static(b"{}"),
        })
    }

    #[test]
    fn project_type_and_build_come_from_subject_and_headers() {
        let build = BuildId::fresh();
        let event = message("slipway.event.team.7.build.finished", Some(&build.to_string()));
        assert_eq!(event.project, Some("team".parse().expect("a name")));
        assert_eq!((event.build, event.short_type.as_str()), (Some(build), "build.finished"));
    }

    #[test]
    fn what_does_not_say_so_has_none() {
        let event = message("slipway.event", None);
        assert_eq!((event.project, event.build, event.short_type), (None, None, String::new()));
        assert_eq!(message("slipway.event.team.7.build.queued", Some("?")).build, None);
    }
}
