// SPDX-License-Identifier: Apache-2.0

//! Reading the stream `EVENTS`, and knowing which stream that is.
//!
//! A reader remembers the last sequence it saw; that number means nothing once somebody made the
//! stream anew, so the stream's time of creation goes with it.

use async_nats::jetstream::consumer::DeliverPolicy;

use crate::Queue;
use crate::read::{ReadError, Reader};

/// Where the stream of events is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsPosition {
    /// When the stream was made, in nanoseconds since the epoch: the identity of its sequences.
    pub created: i128,
    /// The sequence of the last event.
    pub last_sequence: u64,
}

impl Queue {
    /// Asks where the stream of events is.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn events_position(&self) -> Result<EventsPosition, ReadError> {
        let name = self.subjects.events_stream();
        let stream = self.jetstream.get_stream(&name).await.map_err(|error| {
            ReadError::Unavailable { stream: name.clone(), source: error.into() }
        })?;
        let info = stream.cached_info();
        Ok(EventsPosition {
            created: info.created.unix_timestamp_nanos(),
            last_sequence: info.state.last_sequence,
        })
    }

    /// Reads the events of a subject filter that follow a sequence.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub async fn read_events(&self, filter: &str, after: u64) -> Result<Reader, ReadError> {
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        Reader::open(self, &self.subjects.events_stream(), filter, from).await
    }
}
