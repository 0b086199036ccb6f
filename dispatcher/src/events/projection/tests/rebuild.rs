// SPDX-License-Identifier: Apache-2.0

//! Folding in batches, and from nothing.

use proptest::prelude::*;

use super::*;

/// More events than a rebuild that makes its indexes at once.
const MANY: u64 = 1_000_000;

/// Events of three builds: one fails and is replayed, one succeeds, one is retried and cancelled.
fn pool() -> Vec<Event> {
    let mut events = Vec::new();
    let failing = testing::build("team", "r.example/app:1");
    events.extend(history(&failing).into_iter().map(|(event, _)| event));
    let again = replayed(&failed(&claimed(&failing)));
    events.push(Event::queued(&again));
    let running = claimed(&again);
    events.extend(Event::started(&running));
    events.push(Event::finished(&failed(&running)).expect("it is finished"));

    let mut succeeding = testing::build("team", "r.example/app:2");
    succeeding.order = 7;
    succeeding.request.supersede_key = Some("main".to_owned());
    let running = claimed(&succeeding);
    let publishing = running.apply(&Change::Publish { epoch: 1 }, running.accepted_at);
    let publishing = publishing.expect("it applies");
    let image = Box::new(testing::image());
    events.push(Event::queued(&succeeding));
    events.extend(Event::started(&running));
    events.push(Event::published(&running, &image, running.accepted_at));
    let succeed = Change::Succeed { epoch: 1, image };
    let ended = publishing.apply(&succeed, running.accepted_at).expect("it applies");
    events.push(Event::finished(&ended).expect("it is finished"));

    let retried = testing::build("other", "r.example/app:3");
    let (running, now) = (claimed(&retried), retried.accepted_at);
    let failure = Failure::new(Reason::PushImageFailed, "the registry is away");
    events.push(Event::queued(&retried));
    events.push(Event::stage(&running, &worker(), Stage::Assemble, now));
    events.push(Event::retrying(&running, &worker(), &failure, true, now, now));
    let retry = Change::Retry { epoch: 1, not_before: now, failure };
    let waiting = running.apply(&retry, now).expect("it applies");
    let cancel = Change::Cancel { message: "no more".to_owned() };
    let ended = waiting.apply(&cancel, now).expect("it applies");
    events.push(Event::finished(&ended).expect("it is finished"));
    events
}

/// Everything that the file says.
fn contents(fixture: &Fixture) -> Vec<String> {
    let connection = schema::open_for_reading(&fixture.path()).expect("it opens");
    let builds = "SELECT concat_ws('|', project, hex(id), state, epoch, replays, repository, image,
                                   accepted_at, supersede_key, acceptance, body)
                  FROM builds JOIN bodies USING (number) ORDER BY id";
    let early = "SELECT concat_ws('|', hex(id), sequence, body) FROM early ORDER BY id, sequence";
    let meta = "SELECT concat_ws('|', key, value) FROM meta ORDER BY key";
    let mut all = Vec::new();
    for sql in [builds, early, meta] {
        let mut statement = connection.prepare(sql).expect("SQL");
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        all.extend(rows.map(|row| row.expect("a row")));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Also with events that come twice, in any order, or not at all; and with a start of the
    /// process between two batches.
    #[test]
    fn a_batch_says_what_its_events_say_one_by_one(
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
        sizes in prop::collection::vec((1_usize..20, prop::bool::weighted(0.2)), 1..20),
    ) {
        let pool = pool();
        let told: Vec<Stored> =
            (1..).zip(&order).map(|(sequence, event)| stored(sequence, event.get(&pool).clone())).collect();
        let (single, batched) = (Fixture::new(), Fixture::new());
        let (_, mut one_by_one) = single.open();
        for event in &told {
            one_by_one.fold(std::slice::from_ref(event)).expect("it folds");
        }
        let (_, mut in_batches) = batched.open();
        let mut rest = told.as_slice();
        for (size, restarts) in sizes.iter().cycle() {
            let (batch, others) = rest.split_at((*size).min(rest.len()));
            in_batches.fold(batch).expect("it folds");
            if *restarts {
                drop(in_batches);
                in_batches = batched.open().1;
            }
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(contents(&single), contents(&batched));
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_rebuild_costs_nothing_that_was_folded() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let builds: Vec<Build> = (0..3).map(|_| testing::build("team", "r.example/app:1")).collect();
    let accept = |folder: &mut Folder, number: usize| {
        let sequence = number as u64 + 1;
        folder.fold(&[stored(sequence, Event::queued(&builds[number]))]).expect("it folds");
    };
    let project: ProjectName = "team".parse().expect("a name");
    let query =
        ListQuery { project, states: Vec::new(), image: None, id: None, limit: 10, after: None };
    folder.align(1, MANY).expect("it aligns");
    accept(&mut folder, 0);
    let refused = projection.list(query.clone()).await;
    assert!(matches!(refused, Err(ProjectionError::Rebuilding)), "{refused:?}");
    assert_eq!(get(&projection, &builds[0]).await.as_ref(), Some(&builds[0]), "one can be read");

    // The process is gone without a word.
    drop((projection, folder));
    let (projection, mut folder) = fixture.open();
    assert_eq!(folder.last_sequence(), 1);
    folder.align(1, MANY).expect("it aligns");
    accept(&mut folder, 1);
    let refused = projection.list(query.clone()).await;
    assert!(matches!(refused, Err(ProjectionError::Rebuilding)), "{refused:?}");
    accept(&mut folder, 2);
    folder.complete().expect("it completes");
    let found = projection.list(query.clone()).await.expect("it is listed").builds;
    assert_eq!(found.len(), 3);

    // And after that it is a file like any other.
    drop((projection, folder));
    let (projection, mut folder) = fixture.open();
    folder.align(1, MANY).expect("it aligns");
    assert_eq!(projection.list(query).await.expect("it is listed").builds, found);
    lists_are_runs_of_indexes(&fixture);
}

/// What the file says of being written without waiting for the disk.
fn unsynced(fixture: &Fixture) -> Option<String> {
    let connection = schema::open_for_reading(&fixture.path()).expect("it opens");
    let sql = "SELECT value FROM meta WHERE key = 'unsynced'";
    connection.query_row(sql, [], |row| row.get(0)).optional().expect("SQL")
}

#[tokio::test]
async fn a_rebuild_that_a_power_cut_ended_starts_over() {
    let fixture = Fixture::new();
    let build = testing::build("team", "r.example/app:1");
    let fold = |folder: &mut Folder| {
        folder.fold(&[stored(1, Event::queued(&build))]).expect("it folds");
    };
    let cut = || {
        let connection = Connection::open(fixture.path()).expect("it opens");
        let sql = "UPDATE meta SET value = 'another run' WHERE key = 'unsynced'";
        connection.execute(sql, []).expect("SQL")
    };
    let (_, mut folder) = fixture.open();
    folder.align(1, MANY).expect("it aligns");
    assert!(unsynced(&fixture).is_some());
    fold(&mut folder);
    drop(folder);
    assert_eq!(cut(), 1);
    let (projection, mut folder) = fixture.open();
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (0, None));
    assert_eq!(unsynced(&fixture), None);

    // Nothing is left of that when the disk has everything, or when the process alone ended.
    folder.align(1, MANY).expect("it aligns");
    fold(&mut folder);
    folder.complete().expect("it completes");
    folder.wait_for_disk();
    assert_eq!(unsynced(&fixture), None);
    folder.align(2, MANY).expect("it aligns");
    fold(&mut folder);
    drop(folder);
    let (_, mut folder) = fixture.open();
    assert_eq!(folder.last_sequence(), 1, "the process alone ended");
    assert!(unsynced(&fixture).is_some());
    folder.complete().expect("it completes");
    folder.wait_for_disk();
    drop(folder);
    assert_eq!(cut(), 0);
    let (projection, folder) = fixture.open();
    assert_eq!((folder.last_sequence(), get(&projection, &build).await), (1, Some(build)));
}

#[tokio::test]
async fn a_stream_made_anew_in_the_middle_of_a_rebuild_leaves_no_mark() {
    let fixture = Fixture::new();
    let (_, mut folder) = fixture.open();
    folder.align(1, MANY).expect("it aligns");
    assert!(unsynced(&fixture).is_some());
    folder.align(2, 0).expect("it aligns");
    assert_eq!(unsynced(&fixture), None);
}

#[tokio::test]
async fn the_log_is_cut_when_it_is_too_large_and_nobody_reads_from_it() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    let build = testing::build("team", "r.example/app:1");
    folder.fold(&[stored(1, Event::queued(&build))]).expect("it folds");
    let mut path = fixture.path().into_os_string();
    path.push("-wal");
    let size = || std::fs::metadata(&path).expect("there is one").len();
    let writer = Connection::open(fixture.path()).expect("it opens");
    writer.busy_timeout(std::time::Duration::ZERO).expect("SQL");
    let before = size();
    schema::bound_log(&writer, &fixture.path(), before).expect("SQL");
    assert_eq!(size(), before, "it is not too large");

    let reader = schema::open_for_reading(&fixture.path()).expect("it opens");
    let reading = reader.unchecked_transaction().expect("SQL");
    let count = |reading: &Connection| -> i64 {
        reading.query_row("SELECT count(*) FROM builds", [], |row| row.get(0)).expect("SQL")
    };
    assert_eq!(count(&reading), 1);
    schema::bound_log(&writer, &fixture.path(), 0).expect("SQL");
    assert_eq!((size(), count(&reading)), (before, 1), "somebody reads from it");
    drop(reading);
    schema::bound_log(&writer, &fixture.path(), 0).expect("SQL");
    assert_eq!(size(), 0);
    assert_eq!(get(&projection, &build).await, Some(build));
}

#[tokio::test]
async fn few_events_are_folded_with_lists_in_place() {
    let fixture = Fixture::new();
    let (projection, mut folder) = fixture.open();
    for (created, last) in [(1, 0), (1, 1000), (2, 1000), (3, MANY), (4, 1000)] {
        folder.align(created, last).expect("it aligns");
        let project: ProjectName = "team".parse().expect("a name");
        let query = ListQuery {
            project,
            states: Vec::new(),
            image: None,
            id: None,
            limit: 10,
            after: None,
        };
        assert_eq!(projection.list(query).await.is_ok(), last < MANY, "{created}");
        folder
            .fold(&[stored(1, Event::queued(&testing::build("team", "r.example/app:1")))])
            .expect("it folds");
    }
}
