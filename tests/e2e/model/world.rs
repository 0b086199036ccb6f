// SPDX-License-Identifier: Apache-2.0

//! What the actors of one run share: a server, a registry, a clock, and the notes that only an
//! observer of everything can take.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::event::{Event, EventBody, Queued};
use slipway_proto::outcome::Image;
use slipway_proto::platform::Architecture;
use slipway_proto::request::{Artifact, BuildRequest};
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, Build, BuildId, Digest, Platform, ProjectName, Reference, Submission, Timestamp,
};
use slipway_queue::Record;
use slipway_queue::protocol::attempt::Tagged;

use super::history::History;
use super::server::{Server, Taken};

/// How many builds there are, over half as many tags.
pub(crate) const BUILDS: usize = 4;
pub(crate) const TAGS: usize = 2;
/// Small, so that builds come to die of it.
const MAX_ATTEMPTS: u32 = 2;
/// Any time will do, as long as it goes on.
const BEGINNING_MS: i64 = 1_700_000_000_000;
/// The server's window for second copies, and a little.
const WINDOW: Duration = Duration::from_secs(121);

/// What the actors share.
pub(crate) struct World<S: Server> {
    pub(crate) server: S,
    /// Which build's image each tag points at.
    registry: Mutex<BTreeMap<Reference, BuildId>>,
    pub(crate) requests: Vec<BuildRequest>,
    history: Mutex<History>,
    /// The records as they are stored, by their revision.
    documents: Mutex<HashMap<u64, Bytes>>,
    /// The last delivery of each request that is not acknowledged.
    outstanding: Mutex<Vec<Taken<S::Delivery>>>,
    clock_ms: AtomicI64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Server> World<S> {
    pub(crate) fn new(server: S) -> Self {
        Self {
            server,
            registry: Mutex::default(),
            requests: (0..BUILDS).map(request).collect(),
            history: Mutex::default(),
            documents: Mutex::default(),
            outstanding: Mutex::default(),
            clock_ms: AtomicI64::new(BEGINNING_MS),
        }
    }

    /// Returns the time, which goes on with every look at it.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock_ms.fetch_add(1, Relaxed);
        Timestamp::from_millisecond(now).expect("a time of this century")
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, period: Duration) {
        let period = i64::try_from(period.as_millis()).expect("not so long");
        self.clock_ms.fetch_add(period, Relaxed);
    }

    /// Lets so much time pass that ids come to be new again.
    pub(crate) async fn let_window_pass(&self) {
        self.pass(WINDOW);
        self.server.let_window_pass().await;
        self.history().windows += 1;
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Returns the last delivery of each request that is not acknowledged.
    pub(crate) fn outstanding(&self) -> Vec<Taken<S::Delivery>> {
        lock(&self.outstanding).clone()
    }

    /// Notes that a request was delivered.
    pub(crate) fn note_taken(&self, taken: &Taken<S::Delivery>) {
        let mut outstanding = lock(&self.outstanding);
        outstanding.retain(|other| other.sequence != taken.sequence);
        outstanding.push(taken.clone());
    }

    /// Notes that a request was acknowledged.
    pub(crate) fn note_acknowledged(&self, delivery: &S::Delivery) {
        let sequence = self.server.sequence(delivery);
        lock(&self.outstanding).retain(|other| other.sequence != sequence);
        self.history().moves += 1;
    }

    /// Returns a record as it is stored.
    pub(crate) fn document(&self, record: &Record) -> Bytes {
        let mut documents = lock(&self.documents);
        let document = documents.entry(record.revision).or_insert_with(|| {
            serde_json::to_vec(&record.build).expect("a record is valid JSON").into()
        });
        document.clone()
    }

    /// Returns the id of a build by its number.
    pub(crate) fn id(&self, number: usize) -> BuildId {
        self.requests[number].build
    }

    /// Returns which build's image a tag points at.
    pub(crate) fn shown(&self, reference: &Reference) -> Option<BuildId> {
        lock(&self.registry).get(reference).copied()
    }

    /// Points a tag at the image of a build.
    pub(crate) fn write_tag(&self, reference: &Reference, image: BuildId, writer: BuildId) {
        lock(&self.registry).insert(reference.clone(), image);
        self.history().note_tag(image, writer);
    }

    /// Folds the events of a build, as the projection does.
    pub(crate) async fn projected(&self, id: BuildId) -> Option<Build> {
        projected(&self.server.events().await, id)
    }
}

/// Folds the events of a build, as the projection does: what came before the build was known is
/// folded when it is.
pub(crate) fn projected(events: &[Arc<Event>], id: BuildId) -> Option<Build> {
    let mut of_build = events.iter().filter(|event| event.subject == id);
    let (queued, time) = of_build.clone().find_map(|event| match &event.body {
        EventBody::Queued(queued) => Some((queued, event.time)),
        _ => None,
    })?;
    let build = accepted(queued, time);
    Some(of_build.by_ref().fold(build, |mut build, event| {
        build.fold(event);
        build
    }))
}

fn accepted(queued: &Queued, time: Timestamp) -> Build {
    let mut build = Build::accepted(queued.request.clone(), queued.submission, time);
    build.order = queued.order;
    if queued.replays > 0 {
        build.replays = queued.replays;
        build.state.epoch = queued.epoch;
    }
    build
}

/// Returns the digest of the image of a build, which every attempt makes alike.
pub(crate) fn digest(build: BuildId) -> Digest {
    Digest::of(build.to_string().as_bytes())
}

/// Makes the image of a build.
pub(crate) fn image(request: &BuildRequest, tagged: Tagged) -> Image {
    let digest = digest(request.build);
    Image {
        digest,
        pull: request.image().with_digest(digest),
        references: tagged.written,
        superseded: tagged.superseded,
        platform: Platform::LINUX_AMD64,
        config_digest: digest,
        base: None,
        layers: Vec::new(),
        size_bytes: 0,
        sent_bytes: 0,
        assembly_version: 1,
        platforms: Vec::new(),
        stages: Vec::new(),
    }
}

/// Returns the project of all builds.
pub(crate) fn project() -> ProjectName {
    "team".parse().expect("a name")
}

/// What all requests have in common, as a dispatcher makes it of a submission.
static REQUEST: LazyLock<BuildRequest> = LazyLock::new(|| {
    let document = json!({
        "artifact": Digest::of(b"artifact"),
        "image": "registry.example/team/app",
        "environment": "scratch",
        "max_attempts": MAX_ATTEMPTS,
    });
    let facts = ArtifactFacts::Binary(ElfFacts::new(Architecture::Amd64, None));
    let uploaded = Uploaded { size_bytes: 1, filename: "app".to_owned(), facts };
    Submission::read(&document)
        .accept(BuildId::fresh(), project(), Some(&uploaded), &Catalogue::default())
        .expect("it is accepted")
});

fn request(number: usize) -> BuildRequest {
    let tag = format!("registry.example/team/app:{}", number % TAGS);
    let digest = Digest::of(&[u8::try_from(number).expect("a few builds")]);
    BuildRequest {
        build: BuildId::for_idempotency_key(&project(), &number.to_string()),
        artifact: Artifact { digest, ..REQUEST.artifact.clone() },
        references: vec![tag.parse().expect("a reference")],
        ..REQUEST.clone()
    }
}
