// SPDX-License-Identifier: Apache-2.0

//! The form of names, and that each is read back as it was made.

use proptest::prelude::*;

use super::*;
use crate::event::StageEntered;
use crate::{Stage, codec};

const BUILD: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[test]
fn subjects_have_the_shape_of_the_contract() {
    let subjects = Subjects::default();
    let project = "team".parse().expect("a name");
    let build = BUILD.parse().expect("an id");
    let pool = PoolName::default();
    assert_eq!(
        subjects.build(&pool, Priority::Normal, &project, build),
        format!("slipway.build.default.normal.team.{BUILD}")
    );
    assert_eq!(subjects.builds_of(&pool, Priority::High), "slipway.build.default.high.>");
    assert_eq!(subjects.log(&project, build), format!("slipway.log.team.{BUILD}"));
    assert_eq!(subjects.dead_in_any_pool(&project, BUILD), format!("slipway.dead.*.team.{BUILD}"));
    assert_eq!(RecordKey::new(&project, build).to_string(), format!("team.{BUILD}"));
    assert_eq!(bucket_subject("slipway-state", "key"), "$KV.slipway-state.key");
    assert_eq!(shard(build), 0x57 % 64);
}

#[test]
fn another_prefix_is_another_world() {
    let subjects: Subjects = "staging".parse().expect("a prefix");
    assert_eq!(subjects.builds(), "staging.build.>");
    assert_eq!(subjects.builds_stream(), "STAGING_BUILDS");
    assert_eq!(subjects.state_bucket(), "staging-state");
    assert!("a.b".parse::<Subjects>().is_err());
}

#[test]
fn names_of_others_are_read_as_nothing() {
    for subject in ["", "slipway", "slipway.build", "a.b.c.d"] {
        assert_eq!(RequestSubject::parse(subject), None, "{subject}");
        assert_eq!(DeadSubject::parse(subject), None, "{subject}");
        assert_eq!(EventSubject::parse(subject), None, "{subject}");
        assert_eq!(RecordKey::of_subject(subject), None, "{subject}");
        assert_eq!(cancelled_build(subject), None, "{subject}");
        assert_eq!(class_of(subject), None, "{subject}");
    }
    assert_eq!(class_of("log-archiver"), None, "a consumer of another stream");
    assert_eq!(EventSubject::parse("slipway.event.Team.1.build.queued"), None, "no project");
}

#[test]
fn a_request_under_any_tokens_can_be_moved_to_the_dead_letters() {
    let subject = RequestSubject::parse("slipway.build.default.normal.Team.1").expect("five");
    let RequestSubject { pool, project, build, .. } = subject;
    assert_eq!((pool, project, build, subject.ids()), ("default", "Team", "1", None));
    let pool = pool.parse().expect("a name");
    let dead = Subjects::default().dead(&pool, project, build);
    let read = DeadSubject::parse(&dead).expect("five tokens");
    assert_eq!((read.pool, read.project, read.build), ("default", "Team", "1"));
}

#[test]
fn what_could_be_several_tokens_or_a_wildcard_is_no_token() {
    for text in ["", ".", "a.b", "*", "a*", ">", "a b", "\t", "ä"] {
        assert!(!is_token(text), "{text:?}");
    }
    assert!(is_token(BUILD) && is_token("Team_1"));
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

proptest! {
    #[test]
    fn what_was_made_is_what_is_read(
        prefix in name(),
        (pool, project) in (name(), name()),
        build in any::<[u8; 16]>(),
        class in 0..Priority::ALL.len(),
    ) {
        let subjects: Subjects = prefix.parse().expect("a prefix");
        let pool: PoolName = pool.parse().expect("a name");
        let project: ProjectName = project.parse().expect("a name");
        let build = BuildId::from_bytes(build);
        let (priority, ..) = Priority::ALL[class];

        let subject = subjects.build(&pool, priority, &project, build);
        let read = RequestSubject::parse(&subject).expect("a request's");
        prop_assert_eq!((read.pool, read.priority), (pool.as_str(), priority.as_str()));
        prop_assert_eq!(read.ids(), Some((project.clone(), build)));

        let subject = subjects.dead(&pool, project.as_str(), &build.to_string());
        let read = DeadSubject::parse(&subject).expect("a dead letter's");
        prop_assert_eq!((read.pool, read.project), (pool.as_str(), project.as_str()));
        prop_assert_eq!(read.build, build.to_string());

        let key = RecordKey::new(&project, build);
        let subject = bucket_subject(&subjects.state_bucket(), &key.to_string());
        prop_assert_eq!(RecordKey::of_subject(&subject), Some(key));

        prop_assert_eq!(cancelled_build(&subjects.cancel(build)), Some(build));
        let consumer = subjects.builds_consumer(&pool, priority);
        prop_assert_eq!(class_of(&consumer), Some((pool, priority)));
    }

    #[test]
    fn an_event_is_found_under_its_project_and_type(
        (prefix, project) in (name(), name()),
        build in any::<[u8; 16]>(),
    ) {
        let subjects: Subjects = prefix.parse().expect("a prefix");
        let project: ProjectName = project.parse().expect("a name");
        let body = EventBody::Stage(StageEntered {
            project: project.clone(),
            image: codec::tests::request().image().clone(),
            epoch: 1,
            attempt: 1,
            worker: "worker-1".parse().expect("a name"),
            stage: Stage::Fetch,
        });
        let subject = subjects.event(&project, BuildId::from_bytes(build), &body);
        let read = EventSubject::parse(&subject).expect("an event's");
        prop_assert_eq!(read, EventSubject { project, short_type: body.short_type() });
    }
}
