// SPDX-License-Identifier: Apache-2.0

//! Parses events fast, because a rebuild spends most of its time here.
//!
//! The type of `data` depends on the member `type`, so a general parser must first hold all of
//! `data` in a generic form. The last tokens of the subject announce the type, so `data` is read
//! into its own type at once. An event that does not match its subject, or is unexpected in any
//! other way, is parsed the general way.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use slipway_proto::event::{Event, EventBody, EventSource, Finished, Outcome};
use slipway_proto::outcome::Image;
use slipway_proto::state::Epoch;
use slipway_proto::{BuildId, Failure, ProjectName, Reference, Timestamp, WorkerId};

/// Reads an event; `kind` is its short type, from the subject.
pub(crate) fn event(kind: &str, payload: &[u8]) -> Result<Event, serde_json::Error> {
    let read = match kind {
        "build.queued" => typed(payload, kind, |data| Some(EventBody::Queued(data))),
        "build.started" => typed(payload, kind, |data| Some(EventBody::Started(data))),
        "build.stage" => typed(payload, kind, |data| Some(EventBody::Stage(data))),
        "build.retrying" => typed(payload, kind, |data| Some(EventBody::Retrying(data))),
        "artifact.published" => typed(payload, kind, |data| Some(EventBody::Published(data))),
        "build.finished" => typed(payload, kind, Told::body),
        _ => None,
    };
    read.map_or_else(|| serde_json::from_slice(payload), Ok)
}

/// An event of a type that is known.
#[derive(Deserialize)]
struct Envelope<'a, T> {
    specversion: String,
    id: String,
    source: EventSource,
    subject: BuildId,
    time: Timestamp,
    datacontenttype: String,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    data: T,
}

fn typed<T: DeserializeOwned>(
    payload: &[u8],
    kind: &str,
    body: impl FnOnce(T) -> Option<EventBody>,
) -> Option<Event> {
    let read: Envelope<'_, T> = serde_json::from_slice(payload).ok()?;
    let named = read.kind.strip_prefix("dev.slipway.")?.strip_suffix(".v1")?;
    if named != kind {
        return None;
    }
    Some(Event {
        specversion: read.specversion,
        id: read.id,
        source: read.source,
        subject: read.subject,
        time: read.time,
        datacontenttype: read.datacontenttype,
        body: body(read.data)?,
    })
}

/// The data of `build.finished`. The members of the outcome are among the others, and `outcome`
/// says which of them exist.
#[derive(Deserialize)]
struct Told {
    project: ProjectName,
    image: Reference,
    epoch: Epoch,
    attempt: u32,
    worker: Option<WorkerId>,
    accepted_at: Timestamp,
    started_at: Option<Timestamp>,
    dead: bool,
    outcome: Ended,
    published: Option<Box<Image>>,
    failure: Option<Failure>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ended {
    Succeeded,
    Failed,
    Cancelled,
}

impl Told {
    fn body(self) -> Option<EventBody> {
        let outcome = match self.outcome {
            Ended::Succeeded => Outcome::Succeeded { image: self.published? },
            Ended::Failed => Outcome::Failed { failure: self.failure? },
            Ended::Cancelled => Outcome::Cancelled { message: self.message? },
        };
        Some(EventBody::Finished(Box::new(Finished {
            project: self.project,
            image: self.image,
            epoch: self.epoch,
            attempt: self.attempt,
            worker: self.worker,
            accepted_at: self.accepted_at,
            started_at: self.started_at,
            dead: self.dead,
            outcome,
        })))
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Change, Failure, Reason, Stage};

    use super::*;
    use crate::testing;

    #[test]
    fn every_event_is_read_as_the_general_way_reads_it() {
        let worker = "w1".parse().expect("a name");
        let accepted = testing::build("team", "r.example/app:1");
        let now = accepted.accepted_at;
        let claim = Change::Claim { epoch: 1, worker };
        let running = accepted.apply(&claim, now).expect("it applies");
        let worker = running.last_worker.clone().expect("it was claimed");
        let failure = Failure::new(Reason::PushImageFailed, "the registry is away");
        let image = Box::new(testing::image());
        let publish = running.apply(&Change::Publish { epoch: 1 }, now).expect("it applies");
        let end = |change: &Change| {
            let ended = publish.apply(change, now).or_else(|_| running.apply(change, now));
            Event::finished(&ended.expect("it applies")).expect("it is finished")
        };
        let fail = Change::Fail { epoch: 1, failure: failure.clone(), dead: true };
        let events = [
            Event::queued(&accepted),
            Event::started(&running).expect("it has started"),
            Event::stage(&running, &worker, Stage::Push, now),
            Event::retrying(&running, &worker, &failure, true, now, now),
            Event::published(&running, &image, now),
            end(&Change::Succeed { epoch: 1, image }),
            end(&fail),
            end(&Change::Cancel { message: "on \"request\"".to_owned() }),
        ];
        for event in events {
            let payload = serde_json::to_vec(&event).expect("JSON");
            let kind = event.body.short_type();
            let fast = match kind {
                "build.finished" => typed(&payload, kind, Told::body).is_some(),
                _ => true,
            };
            assert!(fast, "{kind} goes the general way");
            assert_eq!(super::event(kind, &payload).expect("an event"), event);
            assert_eq!(super::event("build.else", &payload).expect("an event"), event);
            let other = if kind == "build.stage" { "build.started" } else { "build.stage" };
            assert_eq!(super::event(other, &payload).expect("an event"), event);
        }
        assert!(super::event("build.finished", b"{}").is_err());
    }
}
