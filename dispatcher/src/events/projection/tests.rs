// SPDX-License-Identifier: Apache-2.0

use std::sync::{Arc, Mutex};

use rusqlite::params;
use slipway_proto::api::StateName;
use slipway_proto::event::Event;
use slipway_proto::{Change, Failure, Reason, Stage, Timestamp, WorkerId};

use super::*;
use crate::testing;

mod rebuild;

type Records = Arc<Mutex<Vec<Build>>>;

struct Fixture {
    directory: tempfile::TempDir,
    records: Records,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, records: Records::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("deep/projection.sqlite")
    }

    fn open(&self) -> (Projection, Folder) {
        let records = Arc::clone(&self.records);
        let find: FindRecord = Box::new(move |_, id| {
            let records = records.lock().expect("no panic");
            Ok(records.iter().find(|build| build.request.build == id).cloned())
        });
        Projection::open(&self.path(), find).expect("it opens")
    }
}

fn worker() -> WorkerId {
    "w1".parse().expect("a name")
}

fn stored(sequence: u64, event: Event) -> Stored {
    Stored { sequence, event: Some(event) }
}

fn claimed(build: &Build) -> Build {
    let claim = Change::Claim { epoch: build.state.epoch + 1, worker: worker() };
    build.apply(&claim, build.accepted_at).expect("it applies")
}

fn failed(build: &Build) -> Build {
    let failure = Failure::new(Reason::PushImageFailed, "the registry is away");
    let fail = Change::Fail { epoch: build.state.epoch, failure, dead: false };
    build.apply(&fail, build.accepted_at).expect("it applies")
}

/// The events of a build that was started and failed, with the record after each.
fn history(build: &Build) -> Vec<(Event, Build)> {
    let running = claimed(build);
    let enter = Change::Enter { epoch: 1, stage: Stage::Push };
    let pushing = running.apply(&enter, build.accepted_at).expect("it applies");
    let ended = failed(&pushing);
    vec![
        (Event::queued(build), build.clone()),
        (Event::started(&running).expect("it has started"), running),
        (Event::stage(&pushing, &worker(), Stage::Push, build.accepted_at), pushing),
        (Event::finished(&ended).expect("it is finished"), ended),
    ]
}

async fn get(projection: &Projection, build: &Build) -> Option<Build> {
    let request = &build.request;
    projection.get(&request.project, request.build).await.expect("it is read")
}

async fn all(projection: &Projection, states: &[StateName]) -> Vec<Build> {
    let project = "team".parse().expect("a name");
    let query = ListQuery {
        project,
        states: states.to_vec(),
        image: None,
        id: None,
        limit: 1000,
        after: None,
    };
    projection.list(query).await.expect("it is listed").builds
}

#[tokio::test]
async fn folding_events_one_by_one_gives_the_record_after_each() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    for (sequence, (event, expected)) in (1..).zip(history(&build)) {
        folder.fold(&[stored(sequence, event)]).expect("it folds");
        assert_eq!(get(&projection, &build).await, Some(expected.clone()));
        let state = StateName::from(&expected.state.phase);
        assert_eq!(all(&projection, &[state]).await, [expected], "its row has the state");
    }
    assert_eq!(folder.last_sequence(), 4);
}

#[tokio::test]
async fn an_event_that_is_delivered_again_changes_nothing() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    let events: Vec<Stored> =
        (1..).zip(history(&build)).map(|(sequence, (event, _))| stored(sequence, event)).collect();
    assert_eq!(folder.fold(&events).expect("it folds"), 4);
    let before = get(&projection, &build).await;
    assert_eq!(folder.fold(&events).expect("it folds"), 0);
    drop(folder);
    let (projection, mut folder) = fixture.open();
    assert_eq!(folder.last_sequence(), 4);
    assert_eq!(folder.fold(&events[2..]).expect("it folds"), 0);
    assert_eq!(get(&projection, &build).await, before);
}

#[tokio::test]
async fn a_start_that_overtakes_its_queued_event_is_not_lost() {
    // In one batch.
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let one = testing::build("team", "r.example/app:1");
    let [queued, started, ..] = &history(&one)[..] else { panic!("too short") };
    let batch = [stored(1, started.0.clone()), stored(2, queued.0.clone())];
    folder.fold(&batch).expect("it folds");
    assert_eq!(get(&projection, &one).await.as_ref(), Some(&started.1));

    // In two batches, with a live record.
    let two = testing::build("team", "r.example/app:2");
    let [queued, started, ..] = &history(&two)[..] else { panic!("too short") };
    fixture.records.lock().expect("no panic").push(started.1.clone());
    folder.fold(&[stored(3, started.0.clone())]).expect("it folds");
    assert_eq!(get(&projection, &two).await.as_ref(), Some(&started.1));
    folder.fold(&[stored(4, queued.0.clone())]).expect("it folds");
    assert_eq!(get(&projection, &two).await.as_ref(), Some(&started.1));

    // In two batches, as in a rebuild from events whose records are gone.
    let three = testing::build("team", "r.example/app:3");
    let [queued, started, ..] = &history(&three)[..] else { panic!("too short") };
    folder.fold(&[stored(5, started.0.clone())]).expect("it folds");
    assert_eq!(get(&projection, &three).await, None);
    folder.fold(&[stored(6, queued.0.clone())]).expect("it folds");
    assert_eq!(get(&projection, &three).await.as_ref(), Some(&started.1));
}

#[tokio::test]
async fn a_build_whose_queued_event_was_never_published_comes_from_its_record() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    let (event, ended) = history(&build).pop().expect("there are some");
    fixture.records.lock().expect("no panic").push(ended.clone());
    folder.fold(&[stored(9, event)]).expect("it folds");
    assert_eq!(get(&projection, &build).await, Some(ended));
}

#[tokio::test]
async fn a_batch_that_fails_is_folded_whole_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let away = Arc::new(Mutex::new(true));
    let is_away = Arc::clone(&away);
    let find: FindRecord = Box::new(move |_, _| {
        if *is_away.lock().expect("no panic") {
            let error = slipway_queue::RecordError::Unavailable("away".into());
            return Err(RecordUnavailable(error));
        }
        Ok(None)
    });
    let path = directory.path().join("p");
    let (projection, mut folder) = Projection::open(&path, find).expect("it opens");
    let known = testing::build("team", "r.example/app:1");
    let unknown = testing::build("team", "r.example/app:2");
    let batch = [
        stored(1, Event::queued(&known)),
        stored(2, history(&known)[1].0.clone()),
        stored(3, history(&unknown)[1].0.clone()),
    ];
    assert!(folder.fold(&batch).is_err());
    assert_eq!((folder.last_sequence(), get(&projection, &known).await), (0, None));
    *away.lock().expect("no panic") = false;
    folder.fold(&batch).expect("it folds");
    assert_eq!(get(&projection, &known).await, Some(history(&known)[1].1.clone()));
}

#[tokio::test]
async fn what_does_not_parse_is_passed_over() {
    let fixture = Fixture::new();
    let (_, mut folder) = fixture.open();
    folder.fold(&[Stored { sequence: 7, event: None }]).expect("it folds");
    assert_eq!(folder.last_sequence(), 7);
}

#[tokio::test]
async fn the_events_of_another_stream_are_folded_from_nothing() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    folder.align(1, 0).expect("it aligns");
    folder.fold(&[stored(5, Event::queued(&build))]).expect("it folds");
    folder.align(1, 5).expect("it aligns");
    assert!(get(&projection, &build).await.is_some(), "it is the same stream");
    folder.align(2, 5).expect("it aligns");
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (0, None));
    folder.fold(&[stored(5, Event::queued(&build))]).expect("it folds");
    folder.align(2, 4).expect("it aligns");
    assert_eq!(get(&projection, &build).await, None, "the stream is shorter than what was folded");
}

#[tokio::test]
async fn a_file_of_another_version_or_of_no_version_is_made_anew() {
    let fixture = Fixture::new();
    let build = testing::build("team", "r.example/app:1");
    let fold = |folder: &mut Folder| {
        folder.fold(&[stored(5, Event::queued(&build))]).expect("it folds");
    };
    let (_, mut folder) = fixture.open();
    fold(&mut folder);
    drop(folder);
    let connection = Connection::open(fixture.path()).expect("it opens");
    connection
        .execute("UPDATE meta SET value = '0' WHERE key = 'schema_version'", [])
        .expect("SQL");
    drop(connection);
    let (projection, mut folder) = fixture.open();
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (0, None));
    fold(&mut folder);
    drop((folder, projection));
    let mut log = fixture.path().into_os_string();
    log.push("-wal");
    // From the log alone SQLite would restore the file; it is gone if its last user was a writer.
    let _gone = std::fs::remove_file(log);
    std::fs::write(fixture.path(), b"this is no database, whatever it says of itself")
        .expect("I/O");
    let (projection, mut folder) = fixture.open();
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (0, None));
    fold(&mut folder);
    assert!(get(&projection, &build).await.is_some());
}

#[tokio::test]
async fn a_file_that_was_deleted_is_made_anew_whatever_lies_beside_it() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    folder.fold(&[stored(5, Event::queued(&build))]).expect("it folds");
    assert!(get(&projection, &build).await.is_some());
    drop((folder, projection));
    std::fs::remove_file(fixture.path()).expect("I/O");
    let (projection, folder) = fixture.open();
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (0, None));
}

/// Folds builds that were accepted a second apart, every third of them finished.
fn fold_many(folder: &mut Folder, count: i64) -> Vec<Build> {
    let mut sequence = 0;
    let mut builds = Vec::new();
    for number in 0..count {
        let image = format!("r.example/app{}:{}", number % 2, number % 5);
        let mut build = testing::build("team", &image);
        // Two at a time have the same time.
        build.accepted_at = Timestamp::from_second(1_700_000_000 + number / 2).expect("a time");
        let mut batch = vec![stored(sequence + 1, Event::queued(&build))];
        if number % 3 == 0 {
            let (event, ended) = history(&build).pop().expect("there are some");
            batch.push(stored(sequence + 2, event));
            build = ended;
        }
        sequence += 2;
        folder.fold(&batch).expect("it folds");
        builds.push(build);
    }
    builds.sort_by_key(|build| {
        std::cmp::Reverse((build.accepted_at, build.request.build.to_string()))
    });
    builds
}

#[tokio::test]
async fn pages_put_together_are_the_whole_list_newest_first() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let expected = fold_many(&mut folder, 50);
    folder
        .fold(&[stored(1000, Event::queued(&testing::build("other", "r.example/app0:1")))])
        .expect("it folds");
    for limit in [1, 7, 49, 50, 51] {
        let mut after = None;
        let mut found = Vec::new();
        loop {
            let project = "team".parse().expect("a name");
            let query =
                ListQuery { project, states: Vec::new(), image: None, id: None, limit, after };
            let page = projection.list(query).await.expect("it is listed");
            assert!(page.builds.len() <= limit);
            found.extend(page.builds);
            let Some(next) = page.next else { break };
            after = Some(next.to_string().parse().expect("a cursor survives its writing"));
        }
        assert_eq!(found.len(), 50, "by {limit}");
        assert_eq!(found, expected, "by {limit}");
    }
}

#[tokio::test]
async fn filters_leave_what_they_say() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let builds = fold_many(&mut folder, 50);
    let filter = |text: &str| Some(text.parse::<slipway_proto::Reference>().expect("one").into());
    let cases: [(Vec<StateName>, Option<ImageFilter>); 5] = [
        (vec![StateName::Failed], None),
        (vec![StateName::Queued, StateName::Failed], None),
        (vec![], filter("r.example/app1")),
        (vec![], filter("r.example/app1:3")),
        (vec![StateName::Failed], filter("r.example/app0:0")),
    ];
    for (states, image) in cases {
        let expected: Vec<Build> = builds
            .iter()
            .filter(|build| {
                let state = StateName::from(&build.state.phase);
                let reference = build.request.image();
                (states.is_empty() || states.contains(&state))
                    && match &image {
                        None => true,
                        Some(ImageFilter::Tagged(text)) => reference.to_string() == *text,
                        Some(ImageFilter::Repository(name)) => reference.name() == *name,
                    }
            })
            .cloned()
            .collect();
        assert!(!expected.is_empty());
        let project = "team".parse().expect("a name");
        let query = ListQuery { project, states, image, id: None, limit: 100, after: None };
        let page = projection.list(query).await.expect("it is listed");
        assert_eq!(page.builds, expected);
        assert_eq!(page.next, None);
    }
}

/// The record of a failed build, replayed.
fn replayed(build: &Build) -> Build {
    let replay = Change::Replay { epoch: build.state.epoch + 1 };
    build.apply(&replay, build.accepted_at).expect("it applies")
}

#[tokio::test]
async fn a_replay_brings_a_finished_build_back() {
    let build = testing::build("team", "r.example/app:1");
    let mut told = history(&build);
    let ended = told.last().expect("there are some").1.clone();
    let again = replayed(&ended);
    told.push((Event::queued(&again), again.clone()));
    let running = claimed(&again);
    told.push((Event::started(&running).expect("it has started"), running.clone()));
    let failed = failed(&running);
    told.push((Event::finished(&failed).expect("it is finished"), failed.clone()));

    let one_by_one = Fixture::new();
    let (projection, mut folder) = one_by_one.open();
    for (sequence, (event, expected)) in (1..).zip(&told) {
        folder.fold(&[stored(sequence, event.clone())]).expect("it folds");
        assert_eq!(get(&projection, &build).await.as_ref(), Some(expected));
        let state = StateName::from(&expected.state.phase);
        let listed = all(&projection, &[state]).await;
        assert_eq!(listed, std::slice::from_ref(expected), "its row has the state");
        assert_eq!(all(&projection, &[]).await.len(), 1, "in one place");
    }

    let at_once = Fixture::new();
    let (projection, mut folder) = at_once.open();
    let batch: Vec<Stored> =
        (1..).zip(&told).map(|(sequence, (event, _))| stored(sequence, event.clone())).collect();
    folder.fold(&batch).expect("it folds");
    assert_eq!(get(&projection, &build).await, Some(failed));

    // The events before the replay are gone.
    let late = Fixture::new();
    let (projection, mut folder) = late.open();
    folder.fold(&batch[4..6]).expect("it folds");
    let found = get(&projection, &build).await.expect("it is known");
    assert_eq!((found.replays, &found.state), (1, &running.state));
}

#[tokio::test]
async fn the_states_of_builds_are_told_in_short() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let (one, two) =
        (testing::build("team", "r.example/app:1"), testing::build("team", "r.example/app:2"));
    let ended = history(&one).pop().expect("there are some").1;
    let again = replayed(&ended);
    let events = history(&one).into_iter().map(|(event, _)| event);
    let events: Vec<Stored> = (1..)
        .zip(events.chain([Event::queued(&again)]))
        .map(|(sequence, event)| stored(sequence, event))
        .collect();
    folder.fold(&events).expect("it folds");
    let asked = [&two, &one].map(|build| (build.request.project.clone(), build.request.build));
    let states = projection.states(asked.to_vec()).await.expect("it is read");
    let state = ProjectedState { state: StateName::Queued, epoch: 2, replays: 1 };
    assert_eq!(states, [None, Some(state)]);
}

#[tokio::test]
async fn what_a_later_build_supersedes_is_unfinished_older_and_of_its_key() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let mut events = Vec::new();
    let mut accept = |project: &str, key: Option<&str>, order: u64| {
        let mut build = testing::build(project, "r.example/app:1");
        build.request.supersede_key = key.map(str::to_owned);
        build.order = order;
        events.push(Event::queued(&build));
        build
    };
    let waiting = accept("team", Some("main"), 1);
    let running = accept("team", Some("main"), 2);
    let ended = accept("team", Some("main"), 3);
    accept("team", Some("feature"), 4);
    accept("team", None, 5);
    accept("other", Some("main"), 6);
    accept("team", Some("main"), 7);
    accept("team", Some("main"), 8);
    let started = claimed(&running);
    events.extend(Event::started(&started));
    events.push(history(&ended).pop().expect("there are some").0);
    let events: Vec<Stored> =
        (1..).zip(events).map(|(sequence, event)| stored(sequence, event)).collect();
    folder.fold(&events).expect("it folds");
    let project = "team".parse().expect("a name");
    let mut found = projection.superseded(&project, "main", 7).await.expect("it is read");
    found.sort_unstable();
    let mut expected = [waiting.request.build, running.request.build];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn superseded_builds_are_found_by_an_index_of_unfinished_ones() {
    let fixture = Fixture::new();
    let (_, folder) = fixture.open();
    let connection = schema::open_for_reading(&fixture.path()).expect("it opens");
    let plan: String = connection
        .query_row(
            &format!("EXPLAIN QUERY PLAN {}", state::SUPERSEDED),
            params!["team", "main", 7],
            |row| row.get(3),
        )
        .expect("SQL");
    let index = "SEARCH builds USING INDEX builds_by_supersede_key ";
    assert!(plan.starts_with(index), "{plan}");
    drop(folder);
}

#[test]
fn what_is_no_cursor_is_refused() {
    for text in ["", "x", "MTIz", "MTIzLm5vLWlk"] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

/// The promise that a page costs the same among a million builds rests on this.
fn lists_are_runs_of_indexes(fixture: &Fixture) {
    let connection = schema::open_for_reading(&fixture.path()).expect("it opens");
    for image in ["", "image = ?6 AND", "repository = ?6 AND"] {
        let sql = format!("EXPLAIN QUERY PLAN {}", list::statement(image));
        let mut statement = connection.prepare(&sql).expect("SQL");
        let values = params!["team", 0, 0, "", 10, "x"];
        let count = statement.parameter_count();
        let plan: Vec<String> = statement
            .query_map(&values[..count], |row| row.get(3))
            .expect("SQL")
            .collect::<Result<_, _>>()
            .expect("rows");
        let [only] = plan.as_slice() else { panic!("more than one step: {plan:?}") };
        assert!(only.starts_with("SEARCH builds USING COVERING INDEX"), "{only}");
        assert!(only.contains("(accepted_at,id)<(?,?)"), "{only}");
    }
}

#[test]
fn every_list_is_a_run_of_an_index() {
    let fixture = Fixture::new();
    let (_, folder) = fixture.open();
    lists_are_runs_of_indexes(&fixture);
    drop(folder);
}
