// SPDX-License-Identifier: Apache-2.0

//! The settings of every stream and bucket, and what each of them may grow to.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use slipway_proto::subject::{Subjects, bucket_stream, bucket_subjects};

use crate::election::LEADERSHIP_AGE;
use crate::presence::PRESENCE_AGE;

/// The window in which the server drops a second message of the same id. Long enough for every
/// retry of a publish, short enough not to cost memory (some 210 bytes an id).
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the record of a finished build is kept whatever the bounds say.
///
/// Lower, and the message of a build that failed while its tags were written could outlive the
/// record (an hour), and a projection that is being rebuilt could miss a used idempotency key;
/// higher, and a small bound on bytes is not kept.
pub const MIN_RECORD_AGE: Duration = Duration::from_secs(4 * 60 * 60);

/// How long the server's advisories about the queue are kept.
const ADVISORIES_AGE: Duration = DAY.saturating_mul(7);

/// How many bytes of advisories are kept.
const ADVISORIES_BYTES: i64 = 64 << 20;

/// How long the server keeps the owner of a tag: until a collection removes it, which first looks
/// whether an older build could still take the tag (see `retention`).
const TAG_OWNERS_AGE: Duration = Duration::ZERO;

/// Limits of the streams. The defaults suit one machine; an operator raises them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many builds may wait or run.
    pub queue_messages: i64,
    /// The largest size of their requests, in bytes.
    pub queue_bytes: i64,
    /// How long events are kept.
    pub events_age: Duration,
    /// How long logs are kept in the stream.
    pub logs_age: Duration,
    /// How many bytes of logs are kept in the stream.
    pub logs_bytes: i64,
    /// How long the live record of a build is kept after its last change.
    pub records_age: Duration,
    /// How long a dead letter waits for a replay.
    pub dead_letters_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_messages: 1_000_000,
            queue_bytes: 1 << 30,
            events_age: 90 * DAY,
            logs_age: 3 * DAY,
            logs_bytes: 2 << 30,
            records_age: 3 * DAY,
            dead_letters_age: 30 * DAY,
        }
    }
}

/// Returns the settings of everything that is stored.
pub(super) fn all(subjects: &Subjects, replicas: usize, limits: &Limits) -> Vec<Config> {
    let stream = |name: String, subject: String, description: &str| Config {
        name,
        subjects: vec![subject],
        description: Some(description.to_owned()),
        storage: StorageType::File,
        num_replicas: replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        // Without bounds, as the server itself writes it: otherwise it is read back as a difference.
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        ..Default::default()
    };
    let bucket = |bucket: String, max_age: Duration, description: &str| Config {
        // The stream that `create_key_value` of async-nats would make. It cannot make it itself: it
        // first asks nats-server 2.9 something that the server answers in a form it refuses.
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        max_age,
        // The server refuses a window that is longer than the age.
        duplicate_window: if max_age.is_zero() {
            DUPLICATE_WINDOW
        } else {
            DUPLICATE_WINDOW.min(max_age)
        },
        ..stream(bucket_stream(&bucket), bucket_subjects(&bucket), description)
    };
    vec![
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: 1,
            max_messages: limits.queue_messages,
            max_bytes: limits.queue_bytes,
            // A work queue serves direct gets to its consumers alone.
            allow_direct: false,
            ..stream(subjects.builds_stream(), subjects.builds(), "builds that wait or run")
        },
        Config {
            max_age: limits.events_age,
            ..stream(subjects.events_stream(), subjects.events(), "what happened to builds")
        },
        Config {
            max_age: limits.logs_age,
            max_bytes: limits.logs_bytes,
            ..stream(subjects.logs_stream(), subjects.logs(), "logs of unfinished builds")
        },
        Config {
            max_age: limits.dead_letters_age,
            ..stream(subjects.dead_stream(), subjects.deads(), "requests that cannot be built")
        },
        Config {
            max_age: ADVISORIES_AGE,
            max_bytes: ADVISORIES_BYTES,
            subjects: subjects.advisories(),
            ..stream(subjects.advisories_stream(), String::new(), "advisories about the queue")
        },
        bucket(subjects.state_bucket(), limits.records_age, "live records of builds"),
        bucket(subjects.tags_bucket(), TAG_OWNERS_AGE, "which build each tag belongs to"),
        bucket(subjects.leases_bucket(), LEADERSHIP_AGE, "leases of dispatchers"),
        bucket(subjects.workers_bucket(), PRESENCE_AGE, "presence of workers"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> Vec<Config> {
        all(&Subjects::default(), 1, &Limits::default())
    }

    #[test]
    fn one_stream_hands_each_build_out_once() {
        let queues: Vec<Config> = configs()
            .into_iter()
            .filter(|config| config.retention == RetentionPolicy::WorkQueue)
            .collect();
        let [queue] = queues.as_slice() else { panic!("{queues:?}") };
        assert_eq!(queue.name, "BUILDS");
        assert!(queue.discard_new_per_subject && queue.max_messages_per_subject == 1);
        assert_eq!(queue.discard, DiscardPolicy::New, "a full queue refuses; it drops nothing");
    }

    #[test]
    fn no_subject_belongs_to_two_streams() {
        let subjects: Vec<String> =
            configs().into_iter().flat_map(|config| config.subjects).collect();
        for (index, one) in subjects.iter().enumerate() {
            for other in &subjects[index + 1..] {
                let (one, other) = (one.trim_end_matches('>'), other.trim_end_matches('>'));
                assert!(!one.starts_with(other) && !other.starts_with(one), "{one} {other}");
            }
        }
    }

    #[test]
    fn no_window_for_second_copies_is_longer_than_its_stream_remembers() {
        for config in configs() {
            let is_kept = config.max_age.is_zero() || config.duplicate_window <= config.max_age;
            assert!(is_kept, "the server refuses {}", config.name);
            assert_eq!(config.storage, StorageType::File);
        }
    }
}
