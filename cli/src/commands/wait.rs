// SPDX-License-Identifier: Apache-2.0

//! Waits for the outcome of a build.
//!
//! The stream of its log or events shows the end at once. The build itself is read now and then, in
//! case the stream is broken. The result always comes from the build.

use std::time::Duration;

use slipway_fault::chain;
use slipway_proto::BuildId;
use slipway_proto::api::{BuildView, StateName};
use slipway_proto::event::{Event, EventBody};
use tokio::time::{Instant, sleep_until, timeout};

use super::log::Lines;
use super::show::exit_of;
use crate::output::Output;
use crate::progress::StageProgress;
use crate::render;
use slipway_client::sse::SseEvent;
use slipway_client::{Client, ClientError, Events, Followed, Follower};
use slipway_service::Exit;
use slipway_service::signals::Signals;

/// How often the build is read while the stream works.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// How soon the build is read again after the stream said that it ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);

/// How long the rest of a log may take after the build has ended.
const LOG_GRACE: Duration = Duration::from_secs(3);

/// What is shown while a build is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Its log.
    Log,
    /// Its stages.
    Stages,
}

/// How waiting ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// The build has its outcome.
    Finished(Box<BuildView>),
    /// A signal ended the waiting.
    Signalled,
}

/// Waits until the build has its outcome.
pub(super) async fn wait(
    client: &Client,
    build: BuildView,
    watch: Watch,
    output: &Output,
) -> Result<Waited, ClientError> {
    let id = build.id;
    let mut signals = Signals::listen();
    let show_log = |line: &str| output.log(line);
    let watcher = Watcher::start(client, id, watch, output, &show_log);
    tokio::select! {
        finished = watcher.run(Some(build)) => {
            finished.map(|build| Waited::Finished(Box::new(build)))
        }
        () = signals.next() => {
            output.note(&format!(
                "no longer waiting; build {id} continues. To look at it:\n  \
                 slipway get {id}\n  slipway logs {id} -f\nTo cancel it:\n  \
                 slipway cancel {id}"
            ));
            Ok(Waited::Signalled)
        }
    }
}

/// Runs `slipway logs ID --follow`: the log goes to stdout, whatever the format of results.
pub(super) async fn follow_log(
    client: &Client,
    id: BuildId,
    output: &Output,
) -> Result<Exit, ClientError> {
    // Read first, so that an unknown build is an error.
    let build = client.build(id).await?;
    let show_log = |line: &str| output.result(line);
    let watcher = Watcher::start(client, id, Watch::Log, output, &show_log);
    let build = watcher.run(Some(build)).await?;
    Ok(exit_of(&build))
}

struct Watcher<'a> {
    client: &'a Client,
    id: BuildId,
    watch: Watch,
    output: &'a Output,
    show_log: &'a dyn Fn(&str),
    follower: Follower,
    progress: Option<StageProgress>,
    /// Lines of the log. A piece may end within a line, which continues in the next piece.
    lines: Lines,
    /// The last line that was shown.
    last: String,
    lost: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Keep listening.
    Listen,
    /// Read the build now.
    Ask,
}

impl<'a> Watcher<'a> {
    fn start(
        client: &'a Client,
        id: BuildId,
        watch: Watch,
        output: &'a Output,
        show_log: &'a dyn Fn(&str),
    ) -> Self {
        let (follower, progress) = match watch {
            Watch::Log => (client.follow_log(id), None),
            Watch::Stages => {
                let progress = StageProgress::new(output.notes_on_terminal());
                (client.events(Events::Coming, Some(id)), Some(progress))
            }
        };
        Self {
            client,
            id,
            watch,
            output,
            show_log,
            follower,
            progress,
            lines: Lines::default(),
            last: String::new(),
            lost: false,
        }
    }

    async fn run(mut self, known: Option<BuildView>) -> Result<BuildView, ClientError> {
        let mut ask_at = Instant::now() + POLL_INTERVAL;
        if let Some(build) = known {
            self.show_state(&build);
            if build.state.is_finished() {
                ask_at = Instant::now();
            }
        }
        let mut ended = false;
        loop {
            tokio::select! {
                followed = self.follower.next() => {
                    if self.handle(followed)? == Next::Listen {
                        continue;
                    }
                    ended = true;
                }
                () = sleep_until(ask_at) => {}
            }
            match self.client.build_now(self.id).await {
                Ok(build) if build.state.is_finished() => {
                    if self.watch == Watch::Log {
                        self.drain_log().await;
                        // The server waits longer for the last lines of a worker that died.
                        if let Some(line) = build.last_line().filter(|line| *line != self.last) {
                            self.show_line(line);
                        }
                    }
                    return Ok(build);
                }
                Ok(build) => self.show_state(&build),
                // The stream reports that the server is away, and gives up in the end.
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
            // The stream may show the end before the build does. Read it again soon, but not for
            // ever.
            ask_at = Instant::now() + if ended { SETTLE_INTERVAL } else { POLL_INTERVAL };
            ended = false;
        }
    }

    /// Shows what came from the stream, and decides whether to read the build.
    fn handle(&mut self, followed: Result<Followed, ClientError>) -> Result<Next, ClientError> {
        match followed {
            Ok(Followed::Opened) => {
                if std::mem::take(&mut self.lost) {
                    self.note("connected again");
                }
                // The events do not show what happened before the stream was open.
                Ok(if self.watch == Watch::Stages { Next::Ask } else { Next::Listen })
            }
            Ok(Followed::Event(event)) => Ok(self.show(&event)),
            Ok(Followed::Ended) => Ok(Next::Ask),
            Ok(Followed::Lost(error)) => {
                if !std::mem::replace(&mut self.lost, true) {
                    let error = chain(&error);
                    self.note(&format!("{error}; build {} continues, trying again", self.id));
                }
                Ok(Next::Listen)
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                self.note(&format!("cannot follow: {}; waiting for the outcome", chain(&error)));
                Ok(Next::Ask)
            }
        }
    }

    fn show(&mut self, event: &SseEvent) -> Next {
        match self.watch {
            Watch::Log if event.name == "log" => {
                let lines = self.lines.push(event.data.as_bytes());
                lines.into_iter().for_each(|line| self.show_line(line));
                Next::Listen
            }
            // Its end.
            Watch::Log => Next::Ask,
            Watch::Stages => match stage_of(event, self.id) {
                Some(Seen::State(state)) => {
                    self.show_text(&state);
                    Next::Listen
                }
                Some(Seen::Finished) => Next::Ask,
                None => Next::Listen,
            },
        }
    }

    fn show_line(&mut self, line: String) {
        (self.show_log)(&line);
        self.last = line;
    }

    fn show_state(&mut self, build: &BuildView) {
        // The event of a stage has already shown it.
        if build.state != StateName::Running || self.output.notes_on_terminal() {
            self.show_text(&render::state(build));
        }
    }

    fn show_text(&mut self, state: &str) {
        if let Some(progress) = &mut self.progress {
            progress.show(state);
        }
    }

    fn note(&self, line: &str) {
        match &self.progress {
            Some(progress) => progress.note(line),
            None => self.output.note(line),
        }
    }

    /// Shows the rest of the log of a build that has ended.
    async fn drain_log(&mut self) {
        let deadline = Instant::now() + LOG_GRACE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.follower.next()).await {
                Ok(Ok(Followed::Event(event))) if self.show(&event) == Next::Listen => {}
                Ok(Ok(Followed::Opened)) => {}
                Ok(Ok(_) | Err(_)) | Err(_) => break,
            }
        }
        if let Some(line) = std::mem::take(&mut self.lines).rest() {
            self.show_line(line);
        }
    }
}

enum Seen {
    State(String),
    Finished,
}

/// Reads the state of the build from an event; `None` for events of other builds.
fn stage_of(event: &SseEvent, id: BuildId) -> Option<Seen> {
    let event: Event = serde_json::from_str(&event.data).ok()?;
    if event.subject != id {
        return None;
    }
    match event.body {
        EventBody::Queued(_) => Some(Seen::State("queued".to_owned())),
        EventBody::Started(started) => Some(Seen::State(match started.attempt {
            0 | 1 => format!("running on {}", started.worker),
            attempt => format!("running on {}, attempt {attempt}", started.worker),
        })),
        EventBody::Stage(entered) => Some(Seen::State(format!("running ({})", entered.stage))),
        EventBody::Retrying(retrying) => {
            Some(Seen::State(format!("will be tried again: {}", retrying.failure)))
        }
        EventBody::Published(_) => None,
        EventBody::Finished(_) => Some(Seen::Finished),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, data: &serde_json::Value) -> SseEvent {
        let document = json!({
            "specversion": "1.0", "id": "x", "source": "/projects/team",
            "subject": "01890a5d-ac96-774b-bcce-b302099a8057", "time": "2026-01-01T00:00:00Z",
            "datacontenttype": "application/json",
            "type": format!("dev.slipway.{kind}.v1"), "data": data
        });
        SseEvent { name: kind.to_owned(), id: None, data: document.to_string() }
    }

    fn seen(event: &SseEvent) -> Option<String> {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("an id");
        stage_of(event, id).map(|seen| match seen {
            Seen::State(state) => state,
            Seen::Finished => "finished".to_owned(),
        })
    }

    #[test]
    fn events_say_where_the_build_is() {
        let attempt = |number: u32| {
            json!({"project": "team", "image": "r.example/a:1", "epoch": 1, "attempt": number,
                   "worker": "w-1"})
        };
        let started = |number| seen(&event("build.started", &attempt(number)));
        assert_eq!(started(1).as_deref(), Some("running on w-1"));
        assert_eq!(started(2).as_deref(), Some("running on w-1, attempt 2"));
        let mut entered = attempt(1);
        entered["stage"] = "push".into();
        assert_eq!(seen(&event("build.stage", &entered)).as_deref(), Some("running (push)"));
        let finished = json!({
            "project": "team", "image": "r.example/a:1", "epoch": 1, "attempt": 1, "worker": null,
            "accepted_at": "2026-01-01T00:00:00Z", "started_at": null, "dead": false,
            "outcome": "cancelled", "message": "enough"
        });
        assert_eq!(seen(&event("build.finished", &finished)).as_deref(), Some("finished"));
    }

    #[test]
    fn what_is_unknown_or_of_another_build_is_passed_over() {
        assert_eq!(seen(&event("build.something-newer", &json!({}))), None);
        assert_eq!(seen(&SseEvent { data: "{".to_owned(), ..SseEvent::default() }), None);
        let started = event(
            "build.started",
            &json!({
                "project": "team", "image": "r.example/a:1", "epoch": 1, "attempt": 1, "worker": "w-1"
            }),
        );
        let other = slipway_proto::BuildId::fresh();
        assert!(stage_of(&started, other).is_none());
    }
}
