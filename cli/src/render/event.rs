// SPDX-License-Identifier: Apache-2.0

//! Events, one line each.

use serde_json::Value;
use slipway_proto::event::{Event, EventBody, Outcome};

use super::size;

/// Writes an event on one line. An unknown one is shown by its type.
#[must_use]
pub fn event_line(document: &Value) -> String {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or("?");
    let (time, build) = (text("time"), text("subject"));
    // Milliseconds are enough; finer digits only widen the column.
    let time = match time.strip_suffix('Z').and_then(|time| time.split_once('.')) {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<3.3}Z"),
        None => time.to_owned(),
    };
    let (kind, what) = match serde_json::from_value::<Event>(document.clone()) {
        Ok(event) => (event.body.short_type().to_owned(), describe(&event.body)),
        Err(_) => (text("type").to_owned(), String::new()),
    };
    format!("{time:<24}  {build}  {kind:<18}  {what}").trim_end().to_owned()
}

fn describe(body: &EventBody) -> String {
    match body {
        EventBody::Queued(queued) => {
            let request = &queued.request;
            let artifact = &request.artifact;
            let replay = match queued.replays {
                0 => String::new(),
                number => format!(", replay {number}"),
            };
            format!(
                "{}: {} ({}) on {}{replay}",
                request.image(),
                artifact.filename,
                size(artifact.size_bytes),
                request.recipe.environment
            )
        }
        EventBody::Started(started) => {
            format!("{}: attempt {} on {}", started.image, started.attempt, started.worker)
        }
        EventBody::Stage(entered) => format!("{}: {}", entered.image, entered.stage),
        EventBody::Retrying(retrying) => {
            format!("{}: attempt {}: {}", retrying.image, retrying.attempt, retrying.failure)
        }
        EventBody::Published(published) => {
            format!("{} ({})", published.pull, size(published.size_bytes))
        }
        EventBody::Finished(finished) => {
            let outcome = match &finished.outcome {
                Outcome::Succeeded { image } if image.superseded.is_empty() => {
                    "succeeded".to_owned()
                }
                Outcome::Succeeded { image } => {
                    let tags = image.superseded.iter().map(|tag| tag.reference.to_string());
                    format!("succeeded, tag_superseded: {}", tags.collect::<Vec<_>>().join(", "))
                }
                Outcome::Failed { failure } if finished.dead => {
                    format!("failed, a dead letter: {failure}")
                }
                Outcome::Failed { failure } => format!("failed: {failure}"),
                Outcome::Cancelled { message } => format!("cancelled: {message}"),
            };
            format!("{}: {outcome}", finished.image)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "specversion": "1.0", "id": "x", "source": "/projects/team",
            "subject": "01890a5d-ac96-774b-bcce-b302099a8057", "time": "2026-01-01T00:00:00.1234Z",
            "datacontenttype": "application/json", "type": "dev.slipway.build.started.v1",
            "data": {"project": "team", "image": "r.example/a:1", "epoch": 1, "attempt": 1,
                     "worker": "w-1"}
        });
        assert_eq!(
            event_line(&event),
            "2026-01-01T00:00:00.123Z  01890a5d-ac96-774b-bcce-b302099a8057  build.started       \
             r.example/a:1: attempt 1 on w-1"
        );
    }

    #[test]
    fn an_end_tells_of_dead_letters_and_of_tags_left_to_others() {
        let mut build = crate::render::example_build();
        let line = |outcome: &Value, dead: bool| {
            let mut data = json!({
                "project": "team", "image": "r.example/a:1", "epoch": 1, "attempt": 1,
                "worker": null, "accepted_at": "2026-01-01T00:00:00Z", "started_at": null,
                "dead": dead
            });
            let members = outcome.as_object().expect("an object").clone();
            data.as_object_mut().expect("an object").extend(members);
            event_line(&json!({
                "specversion": "1.0", "id": "x", "source": "/projects/team",
                "subject": "01890a5d-ac96-774b-bcce-b302099a8057", "time": "2026-01-01T00:00:00Z",
                "datacontenttype": "application/json", "type": "dev.slipway.build.finished.v1",
                "data": data
            }))
        };
        let failure = slipway_proto::Failure::new(slipway_proto::Reason::AttemptsExhausted, "no");
        let failed = json!({"outcome": "failed", "failure": failure});
        assert!(line(&failed, true).ends_with(": failed, a dead letter: AttemptsExhausted: no"));
        assert!(line(&failed, false).ends_with(": failed: AttemptsExhausted: no"));
        let image = build.image.as_mut().expect("an image");
        let succeeded = |image: &_| json!({"outcome": "succeeded", "published": image});
        assert!(line(&succeeded(image), false).ends_with(": succeeded"));
        let (reference, by) = (image.references[1].clone(), slipway_proto::BuildId::fresh());
        image.superseded = vec![slipway_proto::outcome::SupersededTag { reference, by }];
        let line = line(&succeeded(image), false);
        assert!(line.ends_with("succeeded, tag_superseded: r.example/team/app:latest"), "{line}");
    }

    #[test]
    fn an_event_of_a_newer_server_is_still_shown() {
        let event =
            json!({"time": "2027-01-01T00:00:00Z", "subject": "b", "type": "dev.slipway.x"});
        assert_eq!(event_line(&event), "2027-01-01T00:00:00Z      b  dev.slipway.x");
    }
}
