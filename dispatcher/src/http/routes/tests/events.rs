// SPDX-License-Identifier: Apache-2.0

//! Subscribers of events.

use super::*;

fn told(sequence: u64, project: &str, build: BuildId) -> Arrived {
    Arrived::of(EventMessage {
        sequence,
        pending: 0,
        time: slipway_proto::Timestamp::UNIX_EPOCH,
        project: Some(project.parse().expect("a name")),
        build: Some(build),
        short_type: "build.started".to_owned(),
        payload: Bytes::from(format!("{{\"n\":{sequence}}}")),
    })
}

#[tokio::test]
async fn a_subscriber_gets_its_project_s_events_from_now_on() {
    let api = Api::start().await;
    let (one, two) = (BuildId::fresh(), BuildId::fresh());
    api.app.feed.tell(&told(1, "team", one));
    let all = api.get("/v1/projects/team/events").await;
    let only = api.get(&format!("/v1/projects/team/events?build={two}")).await;
    assert_eq!(all.headers()[CONTENT_TYPE], "text/event-stream");
    for arrived in [told(2, "team", one), told(3, "other", one), told(4, "team", two)] {
        api.app.feed.tell(&arrived);
    }
    // Ends the streams; what they were told before comes first.
    let mut all = all.into_body().into_data_stream();
    let mut only = only.into_body().into_data_stream();
    let opening = "retry: 1000\nid: 1\n\n";
    let frame = |n| format!("id: {n}\nevent: build.started\ndata: {{\"n\":{n}}}\n\n");
    for expected in [opening, &frame(2), &frame(4)] {
        assert_eq!(all.next().await.expect("a frame").expect("a frame"), expected);
    }
    for expected in [opening, &frame(4)] {
        assert_eq!(only.next().await.expect("a frame").expect("a frame"), expected);
    }
    api.app.feed.close();
    assert!(all.next().await.is_none());
}

#[tokio::test]
async fn a_subscriber_that_resumes_at_the_end_needs_no_history() {
    let api = Api::start().await;
    let build = BuildId::fresh();
    for sequence in 1..=3 {
        api.app.feed.tell(&told(sequence, "team", build));
    }
    let path = "/v1/projects/team/events";
    let answer = api.ask(request("GET", path, &[("last-event-id", "3")], "")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    // What lies behind must be read from the stream, which is not there.
    let answer = api.ask(request("GET", path, &[("last-event-id", "2")], "")).await;
    assert_eq!(code(answer).await, (503, "queue_unavailable".into()));
    let answer = api.ask(request("GET", path, &[("last-event-id", "x")], "")).await;
    assert_eq!(code(answer).await, (400, "invalid_query".into()));
}

#[tokio::test]
async fn a_subscriber_that_is_early_waits_until_it_is_known_where_the_events_stand() {
    let api = Api::just_started().await;
    let from_now_on = api.get("/v1/projects/team/events");
    let everything = api.get("/v1/projects/team/events?after=0");
    let start = async { api.app.feed.aligned(3, 5, false) };
    let (from_now_on, everything, ()) = tokio::join!(from_now_on, everything, start);
    let mut frames = from_now_on.into_body().into_data_stream();
    let opening = frames.next().await.expect("a frame").expect("a frame");
    assert_eq!(opening, "retry: 1000\nid: 5\n\n");
    // What was before must be read from the stream, which is not there.
    assert_eq!(code(everything).await, (503, "queue_unavailable".into()));
}

#[tokio::test]
async fn a_subscriber_that_is_early_does_not_wait_for_ever() {
    let api = Api::just_started().await;
    tokio::time::pause();
    let answer = api.get("/v1/projects/team/events").await;
    assert_eq!(answer.headers()[RETRY_AFTER], "2");
    assert_eq!(code(answer).await, (503, "not_ready".into()));
}

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_dropped() {
    let api = Api::start().await;
    let build = BuildId::fresh();
    let answer = api.get("/v1/projects/team/events").await;
    let mut frames = answer.into_body().into_data_stream();
    assert!(frames.next().await.is_some(), "the opening");
    for sequence in 1..=5000 {
        api.app.feed.tell(&told(sequence, "team", build));
    }
    let mut received = 0;
    while let Some(frame) = frames.next().await {
        frame.expect("a frame");
        received += 1;
    }
    assert!(received < 5000, "{received}");
    let dropped = &api.app.metrics.subscribers_dropped;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
}
