// SPDX-License-Identifier: Apache-2.0

//! Reads the log of a build: the whole log, or its growth until the build is finished.
//!
//! A log ends with the outcome of its build. Where nobody was there to write that, as for a build
//! that was cancelled while it waited, the reader adds it from the build, behind everything else.
//!
//! A log is in the stream `LOGS` while its build runs and for a minute after, and in the artifact
//! store once the build has ended (see `archive`). Positions are byte offsets, which mean the same
//! in both, so a reader can switch in the middle and a client can resume in either.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use slipway_artifact::ArtifactStore;
use slipway_fault::chain;
use slipway_proto::api::StateName;
use slipway_proto::{Build, BuildId, ProjectName};
use slipway_queue::read::{ReadError, Reader};
use slipway_queue::reconnect::{Progress, Reading, keep_reading};
use slipway_queue::{QueryError, Queue};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::builds::find::Builds;
use crate::events::archive;
use crate::events::feed::{Subscription, Told};

/// How often a follower reads the build's state, in case the event of its outcome does not arrive;
/// and how long a chunk that the stream is known to hold may take.
const CHECK: Duration = Duration::from_secs(10);

/// How long the server may take to open a reader.
const READER_WITHIN: Duration = Duration::from_secs(10);

/// How much of the end of a log is remembered, to see whether its last line is the outcome.
const MAX_TAIL: usize = 16 << 10;

/// The log of a build that ran, where no line of it is kept any more.
const NOTHING_KEPT: &[u8] = b"(no line of this build's log is kept any more)\n";

/// A piece of the log for a reader.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes of the log.
    Text {
        /// The bytes.
        text: Bytes,
        /// The offset after them.
        end: u64,
    },
    /// Everything was sent.
    End(StateName),
    /// The log could not be read to its end; the client may resume.
    Broken,
}

/// What to read.
#[derive(Debug, Clone)]
pub(crate) struct LogRequest {
    pub(crate) project: ProjectName,
    pub(crate) build: BuildId,
    /// Whether to continue until the build is finished.
    pub(crate) follow: bool,
    /// How many bytes the client has already.
    pub(crate) skip: u64,
}

/// Where logs are read from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    /// Logs of builds that have not been archived.
    pub(crate) queue: Queue,
    /// Archived logs.
    pub(crate) store: ArtifactStore,
    /// Finds the build of a log.
    pub(crate) builds: Builds,
    /// Ends what is being sent.
    pub(crate) stop: CancellationToken,
}

/// Sends a log into `sink`, ending with [`Piece::End`] or [`Piece::Broken`]. The build must have
/// been subscribed to before it was `found`.
pub(crate) async fn send(
    logs: Logs,
    request: LogRequest,
    found: Build,
    subscription: Subscription,
    sink: mpsc::Sender<Piece>,
) {
    let gone = sink.clone();
    let mut log = Log { logs: &logs, request, position: 0, tail: Vec::new(), sink };
    let sent = async {
        tokio::select! {
            outcome = log.send(found, subscription) => outcome,
            () = gone.closed() => Err(Stop::Gone),
            () = logs.stop.cancelled() => Err(Stop::Broken),
        }
    };
    if let Err(Stop::Broken) = sent.await {
        let _unheard = gone.send(Piece::Broken).await;
    }
}

/// Why the log was not sent to its end.
enum Stop {
    /// The client left.
    Gone,
    /// NATS or the store failed, or the dispatcher stops.
    Broken,
}

struct Log<'a> {
    logs: &'a Logs,
    request: LogRequest,
    /// How many bytes of the log have been read.
    position: u64,
    /// The last bytes of those.
    tail: Vec<u8>,
    sink: mpsc::Sender<Piece>,
}

impl Log<'_> {
    async fn send(&mut self, found: Build, subscription: Subscription) -> Result<(), Stop> {
        if found.state.is_finished() {
            if found.replays > 0 && self.send_both().await? {
                return self.end(&found).await;
            }
            if self.send_archive().await? {
                return self.end(&found).await;
            }
        }
        if !self.request.follow {
            self.send_what_is_there().await?;
            return self.end(&found).await;
        }
        let last = self.follow(found, subscription).await?;
        self.end(&last).await
    }

    /// Ends the log. Its last line is the outcome, also if nobody was there to write that: the
    /// build ended while it waited, or its worker is gone.
    async fn end(&mut self, build: &Build) -> Result<(), Stop> {
        if let Some(line) = build.last_line() {
            if self.position == 0 && build.started_at.is_some() {
                self.text(Bytes::from_static(NOTHING_KEPT)).await?;
            }
            if !ends_with_line(&self.tail, &line) {
                self.text(Bytes::from(line + "\n")).await?;
            }
        }
        let state = StateName::from(&build.state.phase);
        self.sink.send(Piece::End(state)).await.map_err(|_| Stop::Gone)
    }

    /// Sends the archive of a replayed build and then the stream's part, because the archive of the
    /// first outcome lacks the replay until the archiver adds it. Returns whether there is an
    /// archive. The whole log is in memory, because replays are few and logs are small.
    async fn send_both(&mut self) -> Result<bool, Stop> {
        let LogRequest { project, build, .. } = &self.request;
        let kept = match self.logs.store.get_log(project, *build).await {
            Ok(Some(kept)) => archive::whole(kept).await.map_err(|error| broken(&error))?,
            Ok(None) => return Ok(false),
            Err(error) => return Err(broken(&error)),
        };
        let log = tokio::time::timeout(READER_WITHIN, self.logs.queue.whole_log(project, *build));
        let log = log.await.map_err(|elapsed| broken(&elapsed))?;
        let log = log.map_err(|error| broken(&error))?.map_ok(|chunk| chunk.payload);
        let log = archive::whole(log).await.map_err(|error| broken(&error))?;
        self.text(archive::both(&kept, &log).unwrap_or(kept)).await?;
        Ok(true)
    }

    /// Sends the archive from `position` on; returns whether there is one.
    async fn send_archive(&mut self) -> Result<bool, Stop> {
        let LogRequest { project, build, .. } = &self.request;
        let mut archive = match self.logs.store.get_log(project, *build).await {
            Ok(Some(archive)) => archive,
            Ok(None) => return Ok(false),
            Err(error) => return Err(broken(&error)),
        };
        let mut start = 0;
        while let Some(chunk) = archive.next().await {
            let mut chunk = chunk.map_err(|error| broken(&error))?;
            let end = start + chunk.len() as u64;
            if end > self.position {
                let known = usize::try_from(self.position.saturating_sub(start));
                let text = chunk.split_off(known.unwrap_or(chunk.len()).min(chunk.len()));
                self.text(text).await?;
            }
            start = end;
        }
        Ok(true)
    }

    /// Sends the log that the stream holds now.
    async fn send_what_is_there(&mut self) -> Result<(), Stop> {
        let LogRequest { project, build, .. } = &self.request;
        let log = tokio::time::timeout(READER_WITHIN, self.logs.queue.whole_log(project, *build));
        let log = log.await.map_err(|elapsed| broken(&elapsed))?;
        let mut chunks = log.map_err(|error| broken(&error))?;
        while let Some(chunk) = chunks.next().await {
            self.text(chunk.map_err(|error| broken(&error))?.payload).await?;
        }
        Ok(())
    }

    /// Sends chunks as they are stored, until the build is finished and its last chunk was sent;
    /// returns the build as it was then.
    async fn follow(&mut self, build: Build, subscription: Subscription) -> Result<Build, Stop> {
        let mut following = Following {
            log: self,
            told: Some(subscription.receiver),
            build,
            last: None,
            waited: false,
            check: tokio::time::interval_at(Instant::now() + CHECK, CHECK),
        };
        keep_reading(&mut following).await?;
        Ok(following.build)
    }

    async fn look_again(&self, build: &mut Build) {
        let LogRequest { project, build: id, .. } = &self.request;
        // Without an answer it is asked again at the next check.
        if let Ok(Some(found)) = self.logs.builds.find(project, *id).await {
            *build = found;
        }
    }

    async fn open(&self, after: Option<u64>) -> Result<Reader, ReadError> {
        let LogRequest { project, build, .. } = &self.request;
        let open = self.logs.queue.read_log(project, *build, after);
        tokio::time::timeout(READER_WITHIN, open).await.unwrap_or_else(|elapsed| {
            let stream = self.logs.queue.subjects().logs_stream();
            Err(ReadError::Unavailable { stream, source: elapsed.into() })
        })
    }

    /// Sends the next bytes, without those the client already has.
    async fn text(&mut self, mut text: Bytes) -> Result<(), Stop> {
        let start = self.position;
        self.position += text.len() as u64;
        self.tail.extend_from_slice(&text[text.len().saturating_sub(MAX_TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(MAX_TAIL));
        let known = self.request.skip.saturating_sub(start);
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(text.len());
        let text = text.split_off(known);
        if text.is_empty() {
            return Ok(());
        }
        let end = self.position;
        self.sink.send(Piece::Text { text, end }).await.map_err(|_| Stop::Gone)
    }
}

/// A log that is followed, and how far that has come.
struct Following<'a, 'logs> {
    log: &'a mut Log<'logs>,
    told: Option<broadcast::Receiver<Told>>,
    /// The build as it was when last looked at.
    build: Build,
    /// The sequence of the last chunk that was sent.
    last: Option<u64>,
    /// Whether a check has passed since the build was finished.
    waited: bool,
    check: Interval,
}

/// Why no more chunks are sent.
enum Interrupted {
    Stop(Stop),
    Read(ReadError),
}

impl From<Stop> for Interrupted {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<ReadError> for Interrupted {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<QueryError> for Interrupted {
    fn from(error: QueryError) -> Self {
        Self::Read(error.into())
    }
}

impl Reading for Following<'_, '_> {
    type Outcome = Result<(), Stop>;

    async fn read(&mut self, progress: &Progress) -> Result<Self::Outcome, ReadError> {
        match self.read_on(progress).await {
            Ok(()) => Ok(Ok(())),
            Err(Interrupted::Stop(stop)) => Ok(Err(stop)),
            Err(Interrupted::Read(error)) => Err(error),
        }
    }

    fn broke(&self, error: &ReadError) {
        tracing::debug!(error = chain(error), "following a log: opening it again");
    }
}

impl Following<'_, '_> {
    /// Sends chunks behind the last one, until the build is finished and its last chunk was sent.
    async fn read_on(&mut self, progress: &Progress) -> Result<(), Interrupted> {
        let mut reader = self.log.open(self.last).await?;
        loop {
            if self.build.state.is_finished() && self.is_complete().await? {
                return Ok(());
            }
            tokio::select! {
                chunk = reader.follow() => {
                    let chunk = chunk?;
                    self.last = Some(chunk.sequence);
                    self.log.text(chunk.payload).await?;
                    progress.made();
                    self.check.reset();
                }
                finished = outcome(&mut self.told, self.log.request.build),
                    if !self.build.state.is_finished() =>
                {
                    if finished {
                        self.log.look_again(&mut self.build).await;
                    }
                }
                _ = self.check.tick() => {
                    if self.build.state.is_finished() {
                        self.waited = true;
                        // The missing part was removed from the stream meanwhile.
                        if self.log.send_archive().await? {
                            return Ok(());
                        }
                    }
                    self.log.look_again(&mut self.build).await;
                }
            }
        }
    }

    /// Returns whether everything of a finished build's log was sent. A worker whose build was ended
    /// by others writes its last line after that; the follower waits for it, unless the worker died.
    async fn is_complete(&mut self) -> Result<bool, Interrupted> {
        let LogRequest { project, build, .. } = &self.log.request;
        let end = self.log.logs.queue.end_of_log(project, *build);
        let end = tokio::time::timeout(READER_WITHIN, end).await;
        let end = end.map_err(|elapsed| QueryError::new("the end of a log", elapsed))??;
        if let Some(end) = end {
            return Ok(self.last >= Some(end.sequence) && (end.is_closed || self.waited));
        }
        // Either nothing was logged, or the log was removed and is in the archive.
        self.log.send_archive().await?;
        Ok(true)
    }
}

/// Returns whether a log ends with a line.
fn ends_with_line(log: &[u8], line: &str) -> bool {
    let before = log.strip_suffix(b"\n").and_then(|log| log.strip_suffix(line.as_bytes()));
    before.is_some_and(|before| before.is_empty() || before.ends_with(b"\n"))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Stop {
    tracing::warn!(error = chain(error), "failed to send a log");
    Stop::Broken
}

/// Waits for a sign that the build may be finished: its outcome, or the news that signs were
/// missed.
async fn outcome(told: &mut Option<broadcast::Receiver<Told>>, build: BuildId) -> bool {
    let Some(receiver) = told else { return std::future::pending().await };
    match receiver.recv().await {
        Ok(Told::Event(notice)) => notice.finished && notice.build == build,
        Ok(Told::Anew) | Err(broadcast::error::RecvError::Lagged(_)) => true,
        Err(broadcast::error::RecvError::Closed) => {
            *told = None;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ends_with_line;

    #[test]
    fn the_last_line_is_compared_whole() {
        let line = "Build cancelled: no more";
        assert!(ends_with_line(b"Build cancelled: no more\n", line));
        assert!(ends_with_line(b"one\nBuild cancelled: no more\n", line));
        for log in
            ["", "one\n", "not Build cancelled: no more\n", "Build cancelled: no more\ntwo\n"]
        {
            assert!(!ends_with_line(log.as_bytes(), line), "{log:?}");
        }
    }
}
