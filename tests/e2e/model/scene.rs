// SPDX-License-Identifier: Apache-2.0

//! One run: a server, a registry, the actors, and what is noted about them for the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::json;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::event::{Event, EventBody};
use slipway_proto::outcome::Image;
use slipway_proto::platform::Architecture;
use slipway_proto::request::{Artifact, BuildRequest};
use slipway_proto::state::Epoch;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, Build, BuildId, Change, Digest, Phase, Platform, ProjectName, Reference,
    Submission, Timestamp,
};
use slipway_queue::Record;
use slipway_queue::tag::TagOwner;

use super::actors::{Dispatcher, Worker};
use super::world::{Delivery, Server};

/// How many builds there are, over half as many tags.
pub(crate) const BUILDS: usize = 4;
pub(crate) const TAGS: usize = 2;
/// How many dispatchers and workers there are.
pub(crate) const DISPATCHERS: usize = 2;
pub(crate) const WORKERS: usize = 3;
/// Small, so that builds come to die of it.
const MAX_ATTEMPTS: u32 = 2;
/// Any time will do, as long as it goes on.
const BEGINNING: i64 = 1_700_000_000;

/// What the protocols hold to. Each is switched off by a test, which must notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A record is changed only by who saw what stands there.
    pub(crate) epoch_fence: bool,
    /// There is a reconciler.
    pub(crate) reconciler: bool,
    /// A worker enters itself as a tag's owner before it writes the tag.
    pub(crate) tag_claim: bool,
    /// Whoever has written a tag looks again whose it is.
    pub(crate) second_look: bool,
    /// Also when its attempt has ended in between: by a deadline, a lost lease, a cancellation.
    pub(crate) look_after_end: bool,
    /// A build that ends otherwise than succeeded has its tags looked at before its request is
    /// acknowledged: an attempt may have died between its write and its look.
    pub(crate) look_before_end: bool,
    /// A request is acknowledged only when the record has the outcome.
    pub(crate) record_before_ack: bool,
    /// A worker publishes `build.queued` from the record of a build that was not started since it
    /// was queued, and not by how often its request was delivered.
    pub(crate) queued_from_record: bool,
    /// The reconciler drops letters whose build is not dead any more.
    pub(crate) letters_swept: bool,
}

impl Rules {
    /// All of them.
    pub(crate) fn all() -> Self {
        Self {
            epoch_fence: true,
            reconciler: true,
            tag_claim: true,
            second_look: true,
            look_after_end: true,
            look_before_end: true,
            record_before_ack: true,
            queued_from_record: true,
            letters_swept: true,
        }
    }
}

/// What may happen to the actors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Dispatchers crash.
    pub(crate) dispatchers_crash: bool,
    /// Dead letters are replayed.
    pub(crate) replays: bool,
    /// The queue is too small for all builds.
    pub(crate) queue_fills: bool,
    /// A worker that slept beyond its lease writes a tag and dies before it looks again. Nothing
    /// promises what the tag is then.
    pub(crate) sleepers_die: bool,
}

impl Faults {
    /// Everything that the promises cover.
    pub(crate) fn promised() -> Self {
        Self { dispatchers_crash: true, replays: true, queue_fills: true, sleepers_die: false }
    }

    /// Returns how many requests the queue holds.
    pub(crate) fn capacity(self) -> usize {
        if self.queue_fills { BUILDS - 1 } else { BUILDS }
    }
}

/// What was seen of a build's record when it was last written.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) epoch: Epoch,
    pub(crate) replays: u32,
}

impl Seen {
    fn of(build: &Build) -> Self {
        let state = &build.state;
        Self { phase: state.phase.clone(), epoch: state.epoch, replays: build.replays }
    }

    fn is_finished(&self) -> bool {
        matches!(
            self.phase,
            Phase::Succeeded { .. } | Phase::Failed { .. } | Phase::Cancelled { .. }
        )
    }
}

/// A tag that was written.
#[derive(Debug, Clone)]
pub(crate) struct TagWrite {
    /// Whose image the tag was pointed at.
    pub(crate) image: BuildId,
    /// Who wrote.
    pub(crate) writer: BuildId,
}

/// What happened, as nobody inside can see it.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The builds whose acceptance was answered.
    pub(crate) answered: BTreeSet<BuildId>,
    /// The last record of each build.
    pub(crate) last: BTreeMap<BuildId, Seen>,
    /// The outcomes of each build: how often it had been replayed, and the claim.
    pub(crate) outcomes: BTreeMap<BuildId, Vec<(u32, Epoch)>>,
    /// The places of builds in the order of acceptance.
    pub(crate) orders: BTreeMap<BuildId, u64>,
    /// All writes of tags.
    pub(crate) tag_writes: Vec<TagWrite>,
    /// The outcomes that were published.
    told: BTreeSet<(BuildId, Epoch)>,
    /// Starts that were announced when others had taken or ended the build, or told its outcome.
    pub(crate) late_events: BTreeSet<String>,
    /// Promises that were broken on the way.
    pub(crate) broken: Vec<String>,
    /// Counts what changed anything.
    pub(crate) moves: u64,
}

/// One run.
pub(crate) struct Scene<S> {
    pub(crate) server: S,
    pub(crate) rules: Rules,
    pub(crate) faults: Faults,
    /// Which build's image each tag points at.
    pub(crate) registry: BTreeMap<Reference, BuildId>,
    pub(crate) dispatchers: [Dispatcher; DISPATCHERS],
    pub(crate) workers: [Worker; WORKERS],
    pub(crate) requests: Vec<BuildRequest>,
    /// The last delivery of each request that is not acknowledged.
    pub(crate) outstanding: Vec<Delivery>,
    pub(crate) history: History,
    clock: i64,
    /// When the window of ids last passed.
    window_passed: i64,
}

impl<S: Server> Scene<S> {
    /// Begins with nothing but the actors.
    pub(crate) fn new(server: S, rules: Rules, faults: Faults) -> Self {
        Self {
            server,
            rules,
            faults,
            registry: BTreeMap::new(),
            dispatchers: Default::default(),
            workers: Default::default(),
            requests: (0..BUILDS).map(request).collect(),
            outstanding: Vec::new(),
            history: History::default(),
            clock: BEGINNING,
            window_passed: BEGINNING,
        }
    }

    /// Returns the time, which goes on with every look at it.
    pub(crate) fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_second(self.clock).expect("a time of this century")
    }

    /// Notes that ids which came until now come to be new again.
    pub(crate) fn note_window(&mut self) {
        self.window_passed = self.clock;
    }

    /// Returns whether the ids of a time are still known to the server.
    pub(crate) fn window_holds(&self, time: Timestamp) -> bool {
        time.as_second() > self.window_passed
    }

    /// Returns the id of a build by its number.
    pub(crate) fn id(&self, number: usize) -> BuildId {
        self.requests[number].build
    }

    /// Returns the request of a build.
    pub(crate) fn request(&self, build: BuildId) -> &BuildRequest {
        let found = self.requests.iter().find(|request| request.build == build);
        found.expect("there are no other builds")
    }

    /// Returns the image of a build, and itself as the owner of its tag.
    pub(crate) fn owner(&self, build: &Build) -> TagOwner {
        let request = &build.request;
        TagOwner {
            reference: request.image().clone(),
            project: request.project.clone(),
            build: request.build,
            order: build.order,
            digest: digest(request.build),
        }
    }

    /// Creates a record.
    pub(crate) async fn create(&mut self, build: Build) -> Option<Record> {
        let created = self.server.create(build).await;
        if let Some(record) = &created {
            let id = record.build.request.build;
            self.history.last.insert(id, Seen::of(&record.build));
            self.history.orders.insert(id, record.build.order);
            self.history.moves += 1;
        }
        created
    }

    /// Applies a change to a record as it was read, and writes it if that is still what stands
    /// there.
    pub(crate) async fn change(&mut self, record: &Record, change: &Change) -> Option<Record> {
        let now = self.now();
        let next = record.build.apply(change, now).ok()?;
        let updated = self.server.update(next.clone(), record.revision).await;
        let updated = match updated {
            None if !self.rules.epoch_fence => {
                let stands = self.server.read(record.build.request.build).await?;
                self.server.update(next, stands.revision).await
            }
            updated => updated,
        };
        if let Some(record) = &updated {
            self.note(&record.build);
        }
        updated
    }

    /// Removes a record.
    pub(crate) async fn withdraw(&mut self, record: &Record) {
        if self.server.delete(record).await {
            self.history.moves += 1;
        }
    }

    /// Notes a written record, and whether it may follow the last.
    fn note(&mut self, build: &Build) {
        let id = build.request.build;
        let next = Seen::of(build);
        let history = &mut self.history;
        history.moves += 1;
        let ends = next.is_finished();
        let replay = |last: &Seen| next.replays == last.replays + 1 && !ends;
        let last = history.last.get(&id);
        if let Some(last) = last {
            let claim = matches!(next.phase, Phase::Running { .. });
            let newer = next.epoch > last.epoch || (!claim && next.epoch == last.epoch);
            if !newer {
                history.broken.push(format!("{id}: epoch {} after {}", next.epoch, last.epoch));
            }
            let same = std::mem::discriminant(&next.phase) == std::mem::discriminant(&last.phase);
            if last.is_finished() && !same && !replay(last) {
                history.broken.push(format!("{id}: {:?} after {:?}", next.phase, last.phase));
            }
        }
        let already = last.is_some_and(Seen::is_finished);
        if ends && !already {
            let outcome = (next.replays, next.epoch);
            history.outcomes.entry(id).or_default().push(outcome);
        }
        history.last.insert(id, next);
    }

    /// Publishes an event.
    pub(crate) async fn publish(&mut self, event: Event) {
        let (id, history) = (event.subject, &mut self.history);
        match &event.body {
            EventBody::Started(started) if history.told.contains(&(id, started.epoch)) => {
                history.late_events.insert(event.id.clone());
            }
            EventBody::Finished(finished) => drop(history.told.insert((id, finished.epoch))),
            _ => {}
        }
        if self.server.publish(event).await {
            self.history.moves += 1;
        }
    }

    /// Points a tag at an image.
    pub(crate) fn write_tag(&mut self, owner: &TagOwner, writer: &Build) {
        self.registry.insert(owner.reference.clone(), owner.build);
        let writer = writer.request.build;
        let image = owner.build;
        self.history.tag_writes.push(TagWrite { image, writer });
        self.history.moves += 1;
    }

    /// Returns whether somebody else has taken or ended a build since this record was written.
    pub(crate) fn is_overtaken(&self, record: &Record) -> bool {
        let build = &record.build;
        let last = self.history.last.get(&build.request.build);
        last.is_some_and(|last| last.epoch != build.state.epoch || last.is_finished())
    }

    /// Notes that an attempt has written a tag of a build that was cancelled while it held it.
    pub(crate) fn forbid_cancelled(&mut self, record: &Record) {
        let build = &record.build;
        let id = build.request.build;
        let cancelled = self.history.last.get(&id).is_some_and(|last| {
            matches!(last.phase, Phase::Cancelled { .. }) && last.epoch == build.state.epoch
        });
        if cancelled {
            self.history.broken.push(format!("{id}: its tag was written after it was cancelled"));
        }
    }
}

fn digest(build: BuildId) -> Digest {
    Digest::of(build.to_string().as_bytes())
}

/// Makes the image of a build, which every attempt makes alike.
pub(crate) fn image(request: &BuildRequest) -> Box<Image> {
    let digest = digest(request.build);
    Box::new(Image {
        digest,
        pull: request.image().with_digest(digest),
        references: request.references.clone(),
        superseded: Vec::new(),
        platform: Platform::LINUX_AMD64,
        config_digest: digest,
        base: None,
        layers: Vec::new(),
        size_bytes: 0,
        sent_bytes: 0,
        assembly_version: 1,
        stages: Vec::new(),
    })
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
    let (architecture, interpreter) = (Architecture::Amd64, None);
    let facts = ArtifactFacts::Binary(ElfFacts { architecture, interpreter });
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
