// SPDX-License-Identifier: Apache-2.0

//! Many events: a subscriber that cannot keep up, a projection that is rebuilt, and a dispatcher
//! that has just started.

use async_nats::jetstream;
use rusqlite::Connection;
use serde_json::{Value, json};
use slipway_proto::BuildId;
use slipway_tests::{Stack, events, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// How many events there are: far more than a subscriber may fall behind.
const EVENTS: u64 = 6000;

/// How large each event is: together they exceed all socket buffers.
const FILLER: usize = 8000;

/// Publishes `build.queued` for many builds, modelled on a real one.
async fn publish(stack: &Stack, model: &Value, count: u64) {
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let jetstream = jetstream::new(client);
    let mut unconfirmed = Vec::new();
    for _ in 0..count {
        let build = BuildId::fresh().to_string();
        let mut event = model.clone();
        event["subject"] = json!(build);
        event["id"] = json!(format!("{build}:0:build.queued"));
        event["data"]["request"]["build"] = json!(build);
        event["data"]["request"]["labels"] = json!({"filler": "x".repeat(FILLER)});
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Slipway-Build-Id", build);
        let subject = "slipway.event.team.7.build.queued";
        let sent = jetstream.publish_with_headers(subject, headers, event.to_string().into());
        unconfirmed.push(sent.await.expect("NATS is there"));
        if unconfirmed.len() == 500 {
            confirmed(&mut unconfirmed).await;
        }
    }
    confirmed(&mut unconfirmed).await;
}

async fn confirmed(unconfirmed: &mut Vec<jetstream::context::PublishAckFuture>) {
    for confirmation in unconfirmed.drain(..) {
        confirmation.await.expect("it is stored");
    }
}

/// A real `build.queued`, and the number of events.
async fn model(stack: &Stack) -> (Value, u64) {
    let request = stack.tool("a", &stack.image("team/tool:1")).await;
    stack.submit(&request).await;
    let mut all = wait::until("the build to be announced", wait::SOON, || async {
        Some(events::all(&stack.nats.url()).await).filter(|all| !all.is_empty())
    })
    .await;
    (all.remove(0), all.len() as u64 + 1)
}

async fn folded(stack: &Stack, last: u64) {
    wait::until("the events to be folded", wait::LATER, || async {
        let metrics = stack.client.get(stack.url("/metrics")).send().await.ok()?;
        let line = format!("slipway_projection_sequence {last}\n");
        metrics.text().await.ok()?.contains(&line).then_some(())
    })
    .await;
}

/// Requests events on a connection with a small buffer, and reads the head of the answer.
async fn follow(stack: &Stack, last: Option<u64>) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("it can be small");
    let address = stack.url("").trim_start_matches("http://").parse().expect("an address");
    let mut connection = socket.connect(address).await.expect("it listens");
    let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
    let request = format!("GET /v1/projects/team/events HTTP/1.1\r\nHost: x\r\n{last}\r\n");
    connection.write_all(request.as_bytes()).await.expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    connection
}

/// Reads frames up to the end of the stream or the event `until`, and returns the ids.
async fn ids(mut connection: TcpStream, until: u64) -> Vec<u64> {
    let (mut ids, mut text, mut rest) = (Vec::new(), String::new(), Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::time::timeout(wait::SOON, connection.read(&mut buffer)).await;
        let read = read.expect("in time").expect("no error");
        rest.extend_from_slice(&buffer[..read]);
        let ended = dechunk(&mut rest, &mut text) || read == 0;
        while let Some(end) = text.find("\n\n") {
            let frame: String = text.drain(..end + 2).collect();
            if frame.contains("event: ") {
                let id = frame.lines().find_map(|line| line.strip_prefix("id: "));
                ids.push(id.expect("it has one").parse().expect("a number"));
            }
        }
        if ended || ids.last() == Some(&until) {
            return ids;
        }
    }
}

/// Moves whole chunks of the transfer encoding (RFC 9112, section 7.1) from `bytes` to `text`;
/// returns whether the last was among them.
fn dechunk(bytes: &mut Vec<u8>, text: &mut String) -> bool {
    loop {
        let Some(line) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return false };
        let size = str::from_utf8(&bytes[..line]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let end = line + 2 + size;
        if bytes.len() < end + 2 {
            return false;
        }
        text.push_str(str::from_utf8(&bytes[line + 2..end]).expect("text"));
        bytes.drain(..end + 2);
        if size == 0 {
            return true;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_is_dropped_and_misses_nothing() {
    let stack = Stack::start().await;
    let (model, before) = model(&stack).await;
    folded(&stack, before).await;
    let slow = follow(&stack, None).await;
    publish(&stack, &model, EVENTS).await;
    let last = before + EVENTS;
    folded(&stack, last).await;

    let mut seen = ids(slow, last).await;
    assert!(!seen.is_empty() && (seen.len() as u64) < EVENTS, "{} of {EVENTS}", seen.len());
    let metrics = stack.client.get(stack.url("/metrics")).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a body");
    assert!(metrics.contains("slipway_event_subscribers_dropped_total 1\n"), "{metrics}");

    let resumed = follow(&stack, seen.last().copied()).await;
    seen.extend(ids(resumed, last).await);
    assert!(seen.iter().copied().eq(before + 1..=last), "there is a gap, or a repetition");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_was_deleted_is_folded_anew() {
    let mut stack = Stack::start().await;
    let (model, before) = model(&stack).await;
    publish(&stack, &model, 300).await;
    folded(&stack, before + 300).await;
    let list = "/v1/projects/team/builds?limit=100";
    let (_, listed) = stack.get(list).await;
    assert_eq!(listed["builds"].as_array().map(Vec::len), Some(100));

    stack.dispatcher.kill();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("dispatcher/projection.sqlite{suffix}");
        // The files next to it depend on how far its writer had come.
        let _gone = std::fs::remove_file(stack.directory.path().join(path));
    }
    stack.restart_dispatcher().await;
    let (status, again) = stack.get(list).await;
    assert_eq!((status, again), (200, listed), "ready means whole");
}

/// Opens the projection of a dispatcher that was killed.
fn projection(stack: &Stack) -> Connection {
    let path = stack.dispatcher_data().join("projection.sqlite");
    Connection::open(path).expect("the projection opens")
}

/// Keeps a dispatcher from folding anything, and from reading how far it had come, until the
/// projection is released.
fn hold(projection: &Connection) {
    projection.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
}

fn let_go(projection: &Connection) {
    projection.execute_batch("ROLLBACK").expect("it is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resumes_at_a_dispatcher_that_has_just_started_misses_nothing() {
    let mut stack = Stack::start().await;
    let (model, before) = model(&stack).await;
    publish(&stack, &model, 5).await;
    folded(&stack, before + 5).await;
    stack.dispatcher.kill();
    let projection = projection(&stack);
    hold(&projection);
    stack.start_dispatcher().await;
    let (resumed, ()) = tokio::join!(follow(&stack, Some(before + 1)), async {
        // Another request has been answered, so that one has arrived too.
        stack.get("/v1/environments").await;
        let_go(&projection);
    });
    stack.dispatcher_ready().await;
    publish(&stack, &model, 1).await;
    let last = before + 6;
    assert!(ids(resumed, last).await.into_iter().eq(before + 2..=last), "there is a gap");
}

/// Submits under a key.
async fn submit(stack: &Stack, request: &Value, key: &str) -> (u16, Value) {
    let url = stack.url("/v1/projects/team/builds");
    stack.send(stack.client.post(url).header("idempotency-key", key).json(request)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_no_second_build_while_the_projection_is_folded_anew() {
    let mut stack = Stack::start().await;
    let request = stack.tool("a", &stack.image("team/tool:1")).await;
    let (status, build) = submit(&stack, &request, "k").await;
    assert_eq!(status, 202, "{build}");
    let id = build["id"].as_str().expect("an id");
    stack.post(&format!("/v1/projects/team/builds/{id}/cancel")).await;
    let list = "/v1/projects/team/builds?state=cancelled";
    wait::until("the end to be folded", wait::SOON, || async {
        (stack.get(list).await.1["builds"][0]["id"] == id).then_some(())
    })
    .await;
    stack.dispatcher.kill();
    // As after 72 h.
    let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
    let records = jetstream::new(client).get_stream("KV_slipway-state").await.expect("a stream");
    let record = format!("$KV.slipway-state.team.{id}");
    let purged = records.purge().filter(record).await.expect("it is purged");
    assert_eq!(purged.purged, 1);
    // Like one that was deleted, just after its dispatcher has started.
    let projection = projection(&stack);
    let forget = "DELETE FROM builds; DELETE FROM bodies;
                  UPDATE meta SET value = 0 WHERE key = 'last_sequence';";
    projection.execute_batch(forget).expect("nobody writes");
    hold(&projection);
    stack.start_dispatcher().await;

    let mut keyed = request.clone();
    keyed["idempotency_key"] = json!("k");
    let batch = stack.client.post(stack.url("/v1/projects/team/builds:batch"));
    let batch = stack.send(batch.json(&json!({"builds": [keyed, request]})));
    let single = submit(&stack, &request, "k");
    let ((_, batch), (status, problem)) = tokio::join!(batch, single);
    assert_eq!((status, &problem["code"]), (503, &json!("not_ready")), "{problem}");
    let [keyed, keyless] = &batch["results"].as_array().expect("results")[..] else {
        panic!("{batch}");
    };
    assert_eq!((&keyed["problem"]["code"], &keyed["retry_after_s"]), (&problem["code"], &json!(2)));
    assert_eq!(keyless["status"], 202, "{batch}");

    let_go(&projection);
    stack.dispatcher_ready().await;
    let (status, again) = submit(&stack, &request, "k").await;
    assert_eq!((status, &again["id"], &again["state"]), (200, &json!(id), &json!("cancelled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_waits_for_the_first_events_of_a_dispatcher_that_has_just_started() {
    let mut stack = Stack::start().await;
    let request = stack.tool("a", &stack.image("team/tool:1")).await;
    let (_, before) = submit(&stack, &request, "before").await;
    stack.dispatcher.kill();
    let projection = projection(&stack);
    hold(&projection);
    stack.start_dispatcher().await;
    let again = submit(&stack, &request, "before");
    let ((status, again), (new, build), ()) =
        tokio::join!(again, submit(&stack, &request, "new"), async {
            stack.get("/v1/environments").await;
            let_go(&projection);
        });
    assert_eq!((status, &again["id"]), (200, &before["id"]), "{again}");
    assert_eq!(new, 202, "{build}");
}
