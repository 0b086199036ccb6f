// SPDX-License-Identifier: Apache-2.0

//! The cache from its callers' view.

use std::fs::FileTimes;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use tokio::time::Instant;

use super::download::SPEED_WINDOW;
use super::*;

type Chunks = futures::stream::Iter<std::array::IntoIter<Result<Bytes, RegistryError>, 1>>;

fn chunks(text: &'static str) -> Chunks {
    futures::stream::iter([Ok(Bytes::from(text))])
}

fn wanted(digest: Digest, size: u64) -> Wanted {
    Wanted { digest, size, from: "r.example/base".to_owned() }
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it reads");
    text
}

#[tokio::test]
async fn many_callers_cause_one_download() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let downloads = Arc::new(AtomicU32::new(0));
    let one = || {
        let downloads = Arc::clone(&downloads);
        cache.get_or_fetch(wanted(Digest::of(b"layer"), 5), || async move {
            downloads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(chunks("layer"))
        })
    };
    let files = futures::future::join_all((0..20).map(|_| one())).await;
    for file in files {
        assert_eq!(text(file.expect("it is there")), "layer");
    }
    assert_eq!(downloads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_corrupt_blob_is_dropped_and_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"layer");
    let path = directory.path().join("blobs/sha256").join(digest.hex());
    std::fs::write(&path, "lawyer").expect("it can be written");
    assert!(cache.get(digest).await.is_none());
    let fetched = cache.get_or_fetch(wanted(digest, 5), || async { Ok(chunks("layer")) }).await;
    assert_eq!(text(fetched.expect("it is fetched")), "layer");
}

#[tokio::test]
async fn what_is_not_what_was_asked_for_is_not_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"layer");
    let fetched = cache.get_or_fetch(wanted(digest, 5), || async { Ok(chunks("other")) }).await;
    assert!(matches!(fetched, Err(CacheError::Mismatch { .. })));
    assert_eq!(cache.size(), 0);
}

#[tokio::test]
async fn above_the_bound_the_least_recently_used_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 8).expect("it opens");
    for text in ["aaaa", "bbbb"] {
        cache.keep(Digest::of(text.as_bytes()), Bytes::from(text)).await;
        let path = directory.path().join("blobs/sha256").join(Digest::of(text.as_bytes()).hex());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(text.as_bytes()[0]));
        let file = File::open(path).expect("it is there");
        file.set_times(FileTimes::new().set_modified(long_ago)).expect("it can be set");
    }
    assert!(cache.get(Digest::of(b"aaaa")).await.is_some(), "used now");
    cache.keep(Digest::of(b"cccc"), Bytes::from("cccc")).await;
    assert!(cache.get(Digest::of(b"bbbb")).await.is_none());
    assert!(cache.get(Digest::of(b"aaaa")).await.is_some());
}

#[tokio::test]
async fn the_processes_of_a_node_download_once_and_follow_each_other() {
    let (directory, one, other) = node();
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let first = one.get_or_follow(wanted(digest, 7), || async { Ok(stream) });
    let first = first.await.expect("it begins").stream_from(0);
    let mut second = follow(&other, digest, 7).await.boxed();
    feed.send("a la").expect("it is read");
    assert_eq!(second.next().await.expect("a piece").expect("it reads"), "a la");
    assert!(futures::poll!(second.next()).is_pending());
    feed.send("yer").expect("it is read");
    drop(feed);
    assert_eq!(all(first).await.expect("it reads"), b"a layer");
    assert_eq!(all(second).await.expect("it reads"), b"yer");
    assert_eq!(names(directory.path()), [digest.hex()]);
}

#[tokio::test]
async fn what_another_process_fails_to_download_this_one_does() {
    let (directory, one, other) = node();
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let first = one.get_or_follow(wanted(digest, 7), || async { Ok(stream) });
    let first = first.await.expect("it begins").stream_from(0);
    let second = other.get_or_follow(wanted(digest, 7), || async { Ok(chunks("a layer")) });
    let mut second = second.await.expect("it is followed").stream_from(0).boxed();
    feed.send("a l").expect("it is read");
    assert_eq!(second.next().await.expect("a piece").expect("it reads"), "a l");
    // More than the image states.
    feed.send("ayers").expect("it is read");
    assert!(all(first).await.is_err());
    assert_eq!(all(second).await.expect("it reads"), b"ayer");
    assert_eq!(names(directory.path()), [digest.hex()]);
}

#[tokio::test(start_paused = true)]
async fn another_process_that_gets_nothing_is_not_waited_for() {
    let (directory, one, other) = node();
    let digest = Digest::of(b"a layer");
    let part = one.disk.part(&wanted(digest, 7));
    let held = part::Part::take(&part).expect("it is made");
    let begun = Instant::now();
    let fetched = other.get_or_fetch(wanted(digest, 7), || async { Ok(chunks("a layer")) });
    assert_eq!(text(fetched.await.expect("it is fetched")), "a layer");
    assert_eq!(begun.elapsed().as_secs(), SPEED_WINDOW.as_secs());
    other.disk.evict(Digest::of(b"")).expect("it is evicted");
    assert_eq!(names(directory.path()).len(), 2, "the other process still has its file");
    drop(held);
    assert_eq!(names(directory.path()), [digest.hex()]);
}

#[test]
fn who_follows_a_process_that_dies_keeps_what_came() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("layer.part");
    let dying = File::create(&path).expect("it is made");
    dying.lock().expect("it is locked");
    std::fs::write(&path, "a la").expect("it is written");
    let followed = match part::Part::take(&path).expect("it can be followed") {
        part::Taken::Others(others) => others,
        part::Taken::Ours(part) => panic!("{part:?}"),
    };
    drop(dying);
    let taken = part::Part::take(&path).expect("it can be taken");
    assert!(matches!(taken, part::Taken::Ours(_)));
    assert_eq!(std::fs::read(&path).expect("it is new"), b"");
    assert_eq!(text(followed.file.try_clone().expect("it is open")), "a la");
}

#[tokio::test]
async fn what_a_process_left_that_died_is_written_anew_or_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 7).expect("it opens");
    let left = |text: &str, size| {
        let part = cache.disk.part(&wanted(Digest::of(text.as_bytes()), size));
        std::fs::write(part, "some of it, and more").expect("it is written");
    };
    left("a layer", 7);
    left("another layer", 13);
    let file =
        cache.get_or_fetch(wanted(Digest::of(b"a layer"), 7), || async { Ok(chunks("a layer")) });
    assert_eq!(text(file.await.expect("it is fetched")), "a layer");
    assert_eq!(names(directory.path()), [Digest::of(b"a layer").hex()]);
}

/// The caches of two processes on one directory.
fn node() -> (tempfile::TempDir, Cache, Cache) {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Cache::open(directory.path(), 1000).expect("it opens");
    let (one, other) = (open(), open());
    (directory, one, other)
}

fn names(directory: &Path) -> Vec<String> {
    let listing = std::fs::read_dir(directory.join("blobs/sha256")).expect("it is there");
    let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("it is read").file_name();
    listing.map(|entry| name(entry).into_string().expect("it is text")).collect()
}

/// A download that gets its chunks from the test.
fn fed() -> (
    tokio::sync::mpsc::UnboundedSender<&'static str>,
    impl Stream<Item = Result<Bytes, RegistryError>> + Send + 'static,
) {
    let (feed, fed) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures::stream::unfold(fed, |mut fed| async move {
        fed.recv().await.map(|text: &str| (Ok(Bytes::from(text)), fed))
    });
    (feed, stream)
}

async fn follow(
    cache: &Cache,
    digest: Digest,
    size: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let nothing = || async { Err(RegistryError::unavailable("asked twice".into())) };
    let blob = cache
        .get_or_follow::<futures::stream::Empty<_>, _>(wanted(digest, size), nothing)
        .await
        .expect("it is followed");
    blob.stream_from(0)
}

async fn all(stream: impl Stream<Item = io::Result<Bytes>>) -> io::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = futures::TryStreamExt::try_collect(stream).await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn a_download_is_read_while_it_comes_and_its_last_byte_when_it_is_right() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let first = cache.get_or_follow(wanted(digest, 7), || async { Ok(stream) });
    let mut first = first.await.expect("it begins").stream_from(0).boxed();
    let gone = follow(&cache, digest, 7).await;
    feed.send("a la").expect("it is read");
    assert_eq!(first.next().await.expect("a piece").expect("it reads"), "a la");
    drop(gone);
    let late = follow(&cache, digest, 7).await;
    feed.send("yer").expect("it is read");
    assert_eq!(first.next().await.expect("a piece").expect("it reads"), "ye");
    assert!(futures::poll!(first.next()).is_pending(), "the end is not known to be right");
    drop(feed);
    assert_eq!(first.next().await.expect("a piece").expect("it reads"), "r");
    assert!(first.next().await.is_none());
    assert_eq!(all(late).await.expect("it reads"), b"a layer");
    let blob = cache.get_or_follow(wanted(digest, 7), || async { Ok(chunks("asked twice")) });
    let rest = blob.await.expect("it is there").stream_from(2);
    assert_eq!(all(rest).await.expect("it reads"), b"layer");
}

#[tokio::test]
async fn who_follows_a_corrupt_or_broken_download_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let first = cache.get_or_follow(wanted(digest, 7), || async { Ok(stream) });
    let first = first.await.expect("it begins").stream_from(0);
    feed.send("a liar").expect("it is read");
    feed.send("!").expect("it is read");
    drop(feed);
    let error = all(first).await.expect_err("it is corrupt");
    let error = error.get_ref().and_then(|error| error.downcast_ref::<CacheError>());
    assert!(matches!(error, Some(CacheError::Mismatch { .. })), "{error:?}");
    let denied = || async { Err::<Chunks, _>(RegistryError::denied("no".into())) };
    let refused = cache.get_or_follow(wanted(digest, 7), denied).await;
    assert!(matches!(refused, Err(CacheError::Fetch(_))));
}

#[tokio::test]
async fn a_download_that_nobody_follows_any_more_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let blob = cache.get_or_follow(wanted(digest, 7), || async { Ok(stream) }).await;
    drop(blob.expect("it begins"));
    feed.send("a layer").expect("it is read");
    drop(feed);
    let file = cache.get_or_fetch(wanted(digest, 7), || async { Ok(chunks("asked twice")) }).await;
    assert_eq!(text(file.expect("it is there")), "a layer");
}

#[tokio::test]
async fn more_than_the_image_says_is_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    let (feed, stream) = fed();
    let endless = cache.get_or_follow(wanted(digest, 6), || async { Ok(stream) });
    let endless = endless.await.expect("it begins").stream_from(0);
    feed.send("a layer").expect("it is read");
    let error = all(endless).await.expect_err("it is too large");
    let error = error.get_ref().and_then(|error| error.downcast_ref::<CacheError>());
    assert!(matches!(error, Some(CacheError::Size { expected: 6, .. })), "{error:?}");
    feed.closed().await;
    let short = cache.get_or_fetch(wanted(digest, 8), || async { Ok(chunks("a layer")) }).await;
    assert!(matches!(short, Err(CacheError::Size { expected: 8, .. })), "{short:?}");
    assert_eq!(cache.size(), 0);
}

#[tokio::test]
async fn what_one_place_gives_slowly_another_gives_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    let (_feed, stream) = fed();
    let slow = cache.get_or_follow(wanted(digest, 7), || async { Ok(stream) });
    let _slow = slow.await.expect("it begins");
    let elsewhere = Wanted { from: "s.example/base".to_owned(), ..wanted(digest, 7) };
    let file = cache.get_or_fetch(elsewhere, || async { Ok(chunks("a layer")) }).await;
    assert_eq!(text(file.expect("it is fetched")), "a layer");
}

#[tokio::test(start_paused = true)]
async fn a_download_that_hardly_moves_is_given_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let slow = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok(Bytes::from("x")), ()))
    });
    let begun = Instant::now();
    let fetched = cache.get_or_fetch(wanted(Digest::of(b""), 1 << 20), || async { Ok(slow) }).await;
    let error = fetched.expect_err("it is too slow").to_string();
    assert!(error.contains("bytes a minute"), "{error}");
    assert_eq!(begun.elapsed().as_secs(), SPEED_WINDOW.as_secs());
}

#[tokio::test]
async fn what_is_too_large_is_not_read_into_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path(), 1000).expect("it opens");
    let digest = Digest::of(b"a layer");
    cache.keep(digest, Bytes::from("a layer")).await;
    assert_eq!(cache.read(digest, 7).await.as_deref(), Some(&b"a layer"[..]));
    assert_eq!(cache.read(digest, 6).await, None);
}
