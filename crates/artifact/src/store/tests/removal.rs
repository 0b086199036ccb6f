// SPDX-License-Identifier: Apache-2.0

//! The steps in which an artifact is removed, and what others may do between them.

use super::*;

const COLLECTOR: &str = "collector-1";

impl Fixture {
    async fn only(&self) -> StoredArtifact {
        let artifacts = self.store.artifacts().await.expect("it is listed");
        let [artifact] = artifacts.as_slice() else { panic!("{artifacts:?}") };
        artifact.clone()
    }

    async fn found(&self, digest: Digest) -> bool {
        self.store.record(&project("team"), digest).await.expect("it is read").is_some()
    }

    async fn upload_of(&self, name: &str, bytes: &[u8]) {
        let mut upload = self.store.receive().await.expect("it begins");
        upload.write(Bytes::copy_from_slice(bytes)).await.expect("it is written");
        let taken = upload.finish(&project(name), "app.jar", None, Timestamp::now()).await;
        taken.expect("it is taken");
    }

    async fn set_aside(&self, digest: Digest) -> Aside {
        let aside = self.store.set_aside(digest, COLLECTOR).await.expect("it is set aside");
        aside.expect("it is there")
    }
}

#[tokio::test]
async fn an_artifact_that_nobody_uses_is_removed_with_its_records() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        let artifact = fixture.only().await;
        assert_eq!((artifact.digest, artifact.size_bytes), (view.digest, view.size_bytes));
        assert_eq!(artifact.owners[0].0, project("team"));
        fixture.store.condemn(artifact.digest, COLLECTOR).await.expect("it is marked");
        assert!(!fixture.found(view.digest).await, "nobody may build on it from now on");
        let aside = fixture.set_aside(view.digest).await;
        assert!(fixture.store.is_condemned_by(view.digest, COLLECTOR).await.expect("it is read"));
        fixture.store.discard(Some(aside), &artifact).await.expect("it is deleted");
        fixture.store.pardon(view.digest).await.expect("the mark is removed");
        assert_eq!(fixture.objects().await, [""; 0]);
        fixture.upload(&jar(), None).await.expect("it is taken again");
        assert!(fixture.found(view.digest).await);
    }
}

#[tokio::test]
async fn bytes_that_are_set_aside_are_still_fetched() {
    let jar = jar();
    for fixture in fixtures().await {
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        let aside = fixture.set_aside(view.digest).await;
        assert!(fixture.found(view.digest).await);
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
        fixture.store.bring_back(aside).await.expect("it is brought back");
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
    }
}

#[tokio::test]
async fn an_upload_in_the_middle_of_a_removal_stops_it() {
    let jar = jar();
    for fixture in fixtures().await {
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        let artifact = fixture.only().await;
        fixture.store.condemn(artifact.digest, COLLECTOR).await.expect("it is marked");
        // The bytes are still there, so the upload does not place its own.
        fixture.upload(&jar, None).await.expect("it is taken again");
        assert!(fixture.found(view.digest).await);
        let aside = fixture.set_aside(view.digest).await;
        assert!(!fixture.store.is_condemned_by(view.digest, COLLECTOR).await.expect("it is read"));
        assert!(fixture.found(view.digest).await, "also while the collector sleeps");
        fixture.store.bring_back(aside).await.expect("it is brought back");
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
    }
}

#[tokio::test]
async fn an_upload_behind_the_last_look_places_bytes_of_its_own() {
    let jar = jar();
    for fixture in fixtures().await {
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        let artifact = fixture.only().await;
        fixture.store.condemn(artifact.digest, COLLECTOR).await.expect("it is marked");
        let aside = fixture.set_aside(view.digest).await;
        assert!(fixture.store.is_condemned_by(view.digest, COLLECTOR).await.expect("it is read"));
        fixture.upload(&jar, None).await.expect("it is taken again");
        let nobody = StoredArtifact { owners: Vec::new(), ..artifact };
        fixture.store.discard(Some(aside), &nobody).await.expect("it is deleted");
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
        assert!(fixture.found(view.digest).await);
    }
}

#[tokio::test]
async fn what_was_asked_for_since_it_was_listed_is_listed_otherwise() {
    let [fixture, _] = simple_fixtures().await;
    let view = fixture.upload(&jar(), None).await.expect("it is taken");
    let record = fixture
        .directory
        .path()
        .join("store")
        .join(record_path(&project("team"), view.digest).as_ref());
    let file = fs::OpenOptions::new().write(true).open(record).expect("it opens");
    let hour = SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(hour).expect("it is set");
    let artifact = fixture.only().await;
    assert!(artifact.used_at().expect("a time") <= Timestamp::try_from(hour).expect("a time"));
    let used = fixture.store.use_record(&project("team"), view.digest).await;
    assert_eq!(used.expect("it is read"), Some(view.clone()));
    let used = fixture.only().await;
    assert!(used != artifact && used.used_at() > artifact.used_at(), "{used:?}");
    fixture.upload_of("other", &jar()).await;
    let shared = fixture.only().await;
    assert_eq!(shared.owners.len(), 2, "{shared:?}");
}

#[tokio::test]
async fn what_a_dead_collector_left_is_undone() {
    let jar = jar();
    for fixture in fixtures().await {
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        let artifact = fixture.only().await;
        fixture.store.condemn(artifact.digest, COLLECTOR).await.expect("it is marked");
        let _dead = fixture.set_aside(view.digest).await;
        assert_eq!(fixture.store.undo_removals().await.expect("it is undone"), 2);
        assert!(fixture.found(view.digest).await);
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
    }
}

#[tokio::test]
async fn a_project_that_gives_an_artifact_up_leaves_it_to_others() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        let removed = fixture.store.remove_record(&project("other"), view.digest).await;
        assert!(!removed.expect("it is looked at"), "it has none");
        assert!(fixture.found(view.digest).await);
        let removed = fixture.store.remove_record(&project("team"), view.digest).await;
        assert!(removed.expect("it is removed"));
        assert!(!fixture.found(view.digest).await);
        assert_eq!(fixture.only().await.used_at(), None, "the bytes wait for the collector");
    }
}

#[tokio::test]
async fn a_record_without_bytes_is_listed_and_removed() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        fixture.store.remove(&blob_path(view.digest)).await.expect("it is removed");
        let bare = fixture.only().await;
        assert_eq!((bare.digest, bare.size_bytes), (view.digest, 0));
        fixture.store.discard(None, &bare).await.expect("it is removed");
        assert_eq!(fixture.objects().await, [""; 0]);
    }
}

#[tokio::test]
async fn logs_are_listed_and_removed() {
    for fixture in fixtures().await {
        let (project, build) = (project("team"), BuildId::fresh());
        let log = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"line\n"))]);
        fixture.store.put_log(&project, build, log).await.expect("it is kept");
        let logs = fixture.store.logs().await.expect("they are listed");
        let [log] = logs.as_slice() else { panic!("{logs:?}") };
        assert_eq!(log.size_bytes, 5);
        fixture.store.remove_log(log).await.expect("it is removed");
        assert!(fixture.store.get_log(&project, build).await.expect("it is read").is_none());
    }
}
