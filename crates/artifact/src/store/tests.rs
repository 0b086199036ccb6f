// SPDX-License-Identifier: Apache-2.0

//! One suite for both kinds of store: a directory, and objects in memory in place of a cloud. With
//! `SLIPWAY_TEST_STORE=s3://bucket`, and the feature for it, the suite also runs against that cloud.

mod removal;

use std::convert::Infallible;
use std::fs;

use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use object_store::PutPayload;
use object_store::chunked::ChunkedStore;
use object_store::memory::InMemory;
use slipway_proto::{BuildId, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::invalid::Code;
use crate::source::Source as _;
use crate::testing::{deflated, stored, zip};

/// A store with a place for its files.
struct Fixture {
    store: ArtifactStore,
    directory: TempDir,
}

async fn fixtures() -> Vec<Fixture> {
    let mut fixtures = Vec::from(simple_fixtures().await);
    if let Ok(url) = std::env::var("SLIPWAY_TEST_STORE") {
        // Below a name of its own: a bucket is shared by all tests.
        let url = format!("{url}/{}", uuid::Uuid::now_v7());
        let store = ArtifactStore::open(&url).await.expect("it is opened");
        let directory = tempfile::tempdir().expect("a directory");
        fixtures.push(Fixture { store, directory });
    }
    fixtures
}

/// One in a directory, and one in memory.
async fn simple_fixtures() -> [Fixture; 2] {
    let directory = || tempfile::tempdir().expect("a directory");
    let local = directory();
    let url = local.path().join("store").display().to_string();
    let store = ArtifactStore::open(&url).await.expect("it is opened");
    let memory = ArtifactStore::of_objects(Arc::new(InMemory::new()));
    [Fixture { store, directory: local }, Fixture { store: memory, directory: directory() }]
}

impl Fixture {
    async fn upload(
        &self,
        bytes: &[u8],
        expected: Option<Digest>,
    ) -> Result<ArtifactView, ReceiveError> {
        let mut upload = self.store.receive().await?;
        for chunk in bytes.chunks(300_001) {
            upload.write(Bytes::copy_from_slice(chunk)).await?;
        }
        assert_eq!(upload.received(), bytes.len() as u64);
        upload.finish(&project("team"), "app.jar", expected, Timestamp::UNIX_EPOCH).await
    }

    fn scratch(&self) -> std::path::PathBuf {
        self.directory.path().join("scratch")
    }

    async fn fetch(&self, view: &ArtifactView) -> Result<Vec<u8>, StoreError> {
        let fetched =
            self.store.fetch(view.digest, view.size_bytes, &self.scratch(), &|| {}).await?;
        let mut bytes = vec![0; usize::try_from(fetched.source.len()).expect("small")];
        fetched.source.read_exact_at(0, &mut bytes).expect("it is read");
        fetched.verification.wait().await?;
        Ok(bytes)
    }

    /// Every object but the records of verified files, in order.
    async fn objects(&self) -> Vec<String> {
        let objects: Vec<_> = self.store.objects.list(None).try_collect().await.expect("a list");
        let mut names: Vec<String> =
            objects.into_iter().map(|object| object.location.to_string()).collect();
        names.retain(|name| !name.starts_with("verified/"));
        names.sort();
        names
    }

    async fn put(&self, path: &Path, content: &'static [u8]) {
        self.store.objects.put(path, PutPayload::from_static(content)).await.expect("it is put");
    }
}

fn project(name: &str) -> ProjectName {
    name.parse().expect("a name")
}

/// A JAR of several megabytes, so that a cloud's reads are more than one.
fn jar() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..2_000_000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    zip([
        deflated("META-INF/MANIFEST.MF", b"Main-Class: Main\n"),
        stored("first.bin", &noise[..3_000_000]),
        stored("Main.class", b"\xca\xfe\xba\xbe\0\0\0\x3d and more"),
        stored("second.bin", &noise[3_000_000..]),
    ])
}

#[tokio::test]
async fn an_artifact_is_received_recorded_and_fetched() {
    let jar = jar();
    for fixture in fixtures().await {
        let digest = Digest::of(&jar);
        let view = fixture.upload(&jar, Some(digest)).await.expect("it is taken");
        assert_eq!((view.digest, view.size_bytes), (digest, jar.len() as u64));
        assert_eq!(view.facts.java_release(), Some(17));
        let record = fixture.store.record(&project("team"), digest).await.expect("it is read");
        assert_eq!(record.as_ref(), Some(&view));
        assert!(fixture.fetch(&view).await.expect("it is fetched") == jar);
        let hex = digest.hex();
        let expected =
            [format!("blobs/sha256/{hex}"), format!("projects/team/artifacts/{hex}.json")];
        assert_eq!(fixture.objects().await, expected, "nothing else is left");
        let left = fs::read_dir(fixture.scratch()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "the download has no name");
    }
}

#[tokio::test]
async fn a_project_sees_only_what_it_uploaded() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        let record = fixture.store.record(&project("other"), view.digest).await;
        assert_eq!(record.expect("it is read"), None);
    }
}

#[tokio::test]
async fn the_same_bytes_are_kept_once_and_the_record_is_the_last() {
    for fixture in fixtures().await {
        let jar = jar();
        let (one, other) = tokio::join!(fixture.upload(&jar, None), fixture.upload(&jar, None));
        assert_eq!(one.expect("it is taken"), other.expect("it is taken"));
        let mut upload = fixture.store.receive().await.expect("it begins");
        upload.write(jar.into()).await.expect("it is written");
        let now = Timestamp::from_second(7).expect("a time");
        let view = upload.finish(&project("team"), "new.jar", None, now).await.expect("taken");
        let record = fixture.store.record(&project("team"), view.digest).await.expect("read");
        let record = record.expect("it is there");
        assert_eq!((record.filename.as_str(), record.uploaded_at), ("new.jar", now));
        assert_eq!(fixture.objects().await.len(), 2);
    }
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_what_it_had() {
    let [fixture, _] = simple_fixtures().await;
    let view = fixture.upload(&jar(), None).await.expect("it is taken");
    let url = format!("file://{}/store", fixture.directory.path().display());
    let again = ArtifactStore::open(&url).await.expect("it is opened");
    let record = again.record(&project("team"), view.digest).await.expect("it is read");
    assert_eq!(record, Some(view));
}

#[tokio::test]
async fn an_upload_with_another_digest_leaves_nothing() {
    for fixture in fixtures().await {
        let wrong = Digest::of(b"something else");
        match fixture.upload(&jar(), Some(wrong)).await {
            Err(ReceiveError::DigestMismatch { expected, actual }) => {
                assert_eq!((expected, actual), (wrong, Digest::of(&jar())));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fixture.objects().await, [""; 0]);
    }
}

#[tokio::test]
async fn an_upload_that_is_no_artifact_leaves_nothing() {
    let jar = jar();
    let refused: [(&[u8], Code); 4] = [
        (b"", Code::NotAnArtifact),
        (b"text, and not so short", Code::NotAnArtifact),
        (&jar[..jar.len() / 2], Code::Truncated),
        (&zip([stored("WEB-INF/web.xml", b""), stored("../x", b"")]), Code::UnsafePath),
    ];
    for fixture in fixtures().await {
        for (bytes, code) in refused {
            match fixture.upload(bytes, None).await {
                Err(ReceiveError::Invalid(invalid)) => assert_eq!(invalid.code, code),
                other => panic!("{other:?}"),
            }
            assert_eq!(fixture.objects().await, [""; 0], "{code}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    for fixture in fixtures().await {
        let mut upload = fixture.store.receive().await.expect("it begins");
        for _ in 0..20 {
            upload.write(vec![7; 1 << 20].into()).await.expect("it is written");
        }
        // An object in a cloud is visible only when it is complete.
        let shown = usize::from(fixture.store.directory.is_some());
        assert_eq!(fixture.objects().await.len(), shown);
        drop(upload);
        assert_eq!(fixture.objects().await, [""; 0]);
    }
}

#[tokio::test]
async fn an_upload_that_cannot_be_kept_leaves_no_bytes() {
    let [fixture, _] = simple_fixtures().await;
    let blobs = fixture.directory.path().join("store/blobs/sha256");
    fs::remove_dir(&blobs).expect("removed");
    fs::write(&blobs, b"in the way").expect("written");
    match fixture.upload(&jar(), None).await {
        Err(ReceiveError::Store(error)) => assert!(error.is_transient(), "{error}"),
        other => panic!("{other:?}"),
    }
    let record = record_path(&project("team"), Digest::of(&jar())).to_string();
    assert_eq!(fixture.objects().await, ["blobs/sha256", &record], "without bytes it is none");
}

#[tokio::test]
async fn an_artifact_that_is_not_there_is_not_found() {
    for fixture in fixtures().await {
        let digest = Digest::of(b"nothing");
        let record = fixture.store.record(&project("team"), digest).await;
        assert_eq!(record.expect("it is read"), None);
        let error =
            fixture.store.fetch(digest, 7, &fixture.scratch(), &|| {}).await.expect_err("absent");
        assert!(matches!(error, StoreError::NotFound { .. }) && !error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_artifact_is_moved_aside_and_can_be_uploaded_again() {
    let jar = jar();
    for fixture in fixtures().await {
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        fixture.put(&blob_path(view.digest), b"damaged").await;
        match fixture.fetch(&view).await {
            Err(StoreError::Corrupt { expected, actual }) => {
                assert_eq!((expected, actual), (view.digest, Digest::of(b"damaged")));
            }
            other => panic!("{other:?}"),
        }
        let record = fixture.store.record(&project("team"), view.digest).await;
        assert_eq!(record.expect("it is read"), None, "so that the client uploads it again");
        assert!(fixture.objects().await.contains(&format!("corrupt/{}", view.digest.hex())));
        fixture.upload(&jar, None).await.expect("it is taken again");
        assert!(fixture.fetch(&view).await.expect("it is whole again") == jar);
    }
}

#[tokio::test]
async fn a_file_that_was_digested_is_digested_again_only_when_it_was_touched() {
    let [fixture, _] = simple_fixtures().await;
    let (jar, scratch) = (jar(), fixture.scratch());
    let view = fixture.upload(&jar, None).await.expect("it is taken");
    let store = fixture.directory.path().join("store");
    let blob = store.join("blobs/sha256").join(view.digest.hex());
    let fetch = || async {
        fixture.store.fetch(view.digest, view.size_bytes, &scratch, &|| {}).await.expect("there")
    };
    assert!(!fetch().await.verification.is_needed(), "it was digested as it was received");
    let another = ArtifactStore::open(store.to_str().expect("text")).await.expect("it opens");
    let fetched = another.fetch(view.digest, view.size_bytes, &scratch, &|| {}).await;
    assert!(!fetched.expect("there").verification.is_needed(), "another process knows it too");
    // As if restored from a backup: the same bytes in another file.
    fs::copy(&blob, store.join("copy")).expect("it is copied");
    fs::rename(store.join("copy"), &blob).expect("it is renamed");
    assert!(fetch().await.verification.is_needed());
    // A file that was changed just now is not remembered yet.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fetch().await.verification.is_needed() {
        fetch().await.verification.wait().await.expect("it is whole");
        assert!(std::time::Instant::now() < deadline, "it is never remembered");
    }
    let [meanwhile, healed] = [fetch().await.verification, fetch().await.verification];
    assert!(!meanwhile.is_needed());
    // In place: the same inode, the same length.
    let overwrite = |bytes: &[u8]| {
        let mut file = fs::OpenOptions::new().write(true).open(&blob).expect("it opens");
        std::io::Write::write_all(&mut file, bytes).expect("written");
    };
    overwrite(&jar);
    let error = healed.wait().await.expect_err("it may have been anything in between");
    assert!(error.is_transient(), "{error}");
    let mut damaged = jar.clone();
    damaged[5_000_000] ^= 1;
    overwrite(&damaged);
    let later = fetch().await.verification;
    for verification in [meanwhile, later] {
        match verification.wait().await {
            Err(StoreError::Corrupt { actual, .. }) => assert_eq!(actual, Digest::of(&damaged)),
            other => panic!("{other:?}"),
        }
    }
    let gone = fixture.store.fetch(view.digest, view.size_bytes, &scratch, &|| {}).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "it was moved aside");
}

/// File system clocks move in steps: a write in the same step as the upload would leave the same
/// time.
#[tokio::test]
async fn the_time_of_a_blob_is_one_that_no_later_write_leaves() {
    let [fixture, _] = simple_fixtures().await;
    let begun = SystemTime::now();
    let view = fixture.upload(&jar(), None).await.expect("it is taken");
    let path = fixture.directory.path().join("store/blobs/sha256").join(view.digest.hex());
    let modified = fs::metadata(path).and_then(|found| found.modified()).expect("a time");
    assert!(modified + Duration::from_millis(100) < begun, "{modified:?} {begun:?}");
}

#[tokio::test]
async fn a_blob_of_another_length_is_replaced_by_an_upload() {
    let jar = jar();
    for fixture in fixtures().await {
        fixture.put(&blob_path(Digest::of(&jar)), b"cut short").await;
        let view = fixture.upload(&jar, None).await.expect("it is taken");
        assert!(fixture.fetch(&view).await.expect("it is whole") == jar);
    }
}

#[tokio::test]
async fn a_download_ends_when_it_is_longer_than_the_artifact() {
    let pieces = ChunkedStore::new(Arc::new(InMemory::new()), 10);
    let [_, mut fixture] = simple_fixtures().await;
    fixture.store = ArtifactStore::of_objects(Arc::new(pieces));
    let digest = Digest::of(b"0123456789");
    fixture.put(&blob_path(digest), &[b'x'; 1000]).await;
    match fixture.store.fetch(digest, 10, &fixture.scratch(), &|| {}).await {
        Err(StoreError::Corrupt { actual, .. }) => assert_eq!(actual, Digest::of(&[b'x'; 20])),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        fixture.put(&record_path(&project("team"), view.digest), b"{").await;
        let error = fixture.store.record(&project("team"), view.digest).await.expect_err("bad");
        assert!(matches!(error, StoreError::BadRecord { .. }) && !error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn only_stale_uploads_are_swept() {
    for fixture in fixtures().await {
        let view = fixture.upload(&jar(), None).await.expect("it is taken");
        fixture.put(&fresh_upload_path(), b"left behind").await;
        let hours = |hours: u64| SystemTime::now() + Duration::from_secs(hours * 3600);
        fixture.store.sweep(hours(23)).await.expect("it is swept");
        assert_eq!(fixture.objects().await.len(), 3);
        fixture.store.sweep(hours(25)).await.expect("it is swept");
        assert_eq!(fixture.objects().await.len(), 2);
        assert!(fixture.fetch(&view).await.is_ok());
    }
}

#[tokio::test]
async fn a_log_is_kept_whole_and_replaced() {
    let line = Bytes::from_static(&[b'l'; 64 << 10]);
    for fixture in fixtures().await {
        let (project, build) = (project("team"), BuildId::fresh());
        // Nothing, a little, and more than one part.
        for count in [0, 3, 200] {
            let pieces = vec![Ok::<_, Infallible>(line.clone()); count];
            let store = &fixture.store;
            store.put_log(&project, build, stream::iter(pieces)).await.expect("it is kept");
            let log = store.get_log(&project, build).await.expect("it is read").expect("there");
            let log: Vec<Bytes> = log.try_collect().await.expect("it is read");
            assert!(log.concat() == vec![b'l'; count * line.len()], "{count}");
        }
        assert_eq!(fixture.objects().await, [format!("logs/team/{build}.log")]);
        let none = fixture.store.get_log(&project, BuildId::fresh()).await.expect("it is read");
        assert!(none.is_none());
    }
}

#[tokio::test]
async fn a_log_that_ends_in_an_error_is_not_kept() {
    for fixture in fixtures().await {
        for count in [1, 200] {
            let piece = Bytes::from_static(&[b'l'; 64 << 10]);
            let mut pieces = vec![Ok(piece); count];
            pieces.push(Err("the stream broke"));
            let (project, build, log) = (project("team"), BuildId::fresh(), stream::iter(pieces));
            let kept = fixture.store.put_log(&project, build, log).await;
            assert!(kept.expect_err("it broke").is_transient());
            assert_eq!(fixture.objects().await, [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_place_that_is_no_store_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let below = file.path().join("store").display().to_string();
    for url in [below.as_str(), "ftp://host/x", "s4://bucket"] {
        let error = ArtifactStore::open(url).await.expect_err(url);
        assert!(error.to_string().contains("store"), "{error}");
    }
}
