// SPDX-License-Identifier: Apache-2.0

//! The one reader of `EVENTS` of this dispatcher. Events go to the projection and then, through a
//! bounded broadcast, to every subscriber.
//!
//! One reader serves all: a consumer for each of a thousand dashboards would cost the server more
//! than the events themselves. Each project has a broadcast of its own, and so has each build that
//! is followed alone, so that no connection wakes up for an event it does not send. A subscriber
//! that is too slow loses its place in the broadcast and is dropped. It comes back with the last id
//! it saw and reads the missed events from the stream.

mod pace;
mod reader;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use slipway_proto::{BuildId, ProjectName, Timestamp};
use slipway_queue::events::EventMessage;
use slipway_queue::topology::MIN_RECORD_AGE;
use tokio::sync::{broadcast, watch};

use crate::events::projection::{self, Stored};
use crate::http::sse;
pub(crate) use pace::Pace;
pub(crate) use reader::read;

/// How many events of a project a subscriber may fall behind, in addition to those that the
/// connection holds. At five thousand events a second this is 0.4 s. Each place costs 32 bytes, and
/// the event in it some KiB.
const MAX_LAG: usize = 2048;

/// How many events a subscriber to one build may fall behind: more than a build has.
const MAX_LAG_OF_BUILD: usize = 64;

/// If the last folded event is younger than this, all events of builds whose live record has
/// expired are folded. An hour less than any record is kept, to allow for clocks that differ and
/// events that were published late.
const PAST: Duration = MIN_RECORD_AGE.saturating_sub(Duration::from_secs(60 * 60));

/// How many broadcasts are kept before unused ones are removed.
const MIN_PRUNED: usize = 64;

/// A message of the stream as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) sequence: u64,
    /// How many messages followed it when it arrived.
    pub(crate) pending: u64,
    /// When it was stored.
    pub(crate) time: Timestamp,
    project: Option<ProjectName>,
    build: Option<BuildId>,
    /// The short type, from the subject.
    kind: String,
    payload: Bytes,
}

impl Arrived {
    /// Takes a message; its payload is parsed where that is needed.
    pub(crate) fn of(message: EventMessage) -> Self {
        Self {
            sequence: message.sequence,
            pending: message.pending,
            time: message.time,
            project: message.project,
            build: message.build,
            kind: message.short_type,
            payload: message.payload,
        }
    }

    /// Returns how many bytes its payload has.
    pub(crate) fn size(&self) -> usize {
        self.payload.len()
    }

    /// Parses the payload if it changes a row. An `artifact.published` says nothing that the
    /// following `build.finished` does not.
    pub(crate) fn stored(&self) -> Stored {
        if self.kind == "artifact.published" {
            return Stored { sequence: self.sequence, event: None };
        }
        let event = match projection::event(&self.kind, &self.payload) {
            Ok(event) => Some(event),
            Err(error) => {
                let sequence = self.sequence;
                tracing::warn!(%error, sequence, kind = self.kind, "skipped an event that does \
                    not parse");
                None
            }
        };
        Stored { sequence: self.sequence, event }
    }

    /// Makes the item for subscribers; `None` if the message is not an event.
    pub(crate) fn notice(&self) -> Option<Notice> {
        let text = str::from_utf8(&self.payload).ok()?;
        Some(Notice {
            sequence: self.sequence,
            project: self.project.clone()?,
            build: self.build?,
            finished: self.kind == "build.finished",
            frame: sse::frame(self.sequence, &self.kind, text),
        })
    }
}

/// An event in the form for subscribers.
#[derive(Debug)]
pub(crate) struct Notice {
    /// Its sequence in the stream.
    pub(crate) sequence: u64,
    /// The project it belongs to.
    pub(crate) project: ProjectName,
    /// The build it is about.
    pub(crate) build: BuildId,
    /// Whether it is the build's outcome.
    pub(crate) finished: bool,
    /// The bytes of its `text/event-stream` frame, the same for all.
    pub(crate) frame: Bytes,
}

/// An item of the broadcast.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// An event.
    Event(Arc<Notice>),
    /// The stream was recreated. Sequences start over, and no subscriber can continue from here.
    Anew,
}

/// The subscribers.
#[derive(Debug, Default)]
struct Topics {
    projects: Broadcasts<ProjectName>,
    builds: Broadcasts<BuildId>,
    /// Whether the feed is closed.
    closed: bool,
}

/// Broadcasts by project or build.
#[derive(Debug)]
struct Broadcasts<K> {
    senders: HashMap<K, broadcast::Sender<Told>>,
    /// How many broadcasts there may be before unused ones are removed.
    pruned_at: usize,
}

impl<K> Default for Broadcasts<K> {
    fn default() -> Self {
        Self { senders: HashMap::new(), pruned_at: MIN_PRUNED }
    }
}

impl<K: Eq + Hash> Broadcasts<K> {
    fn subscribe(&mut self, key: K, capacity: usize) -> broadcast::Receiver<Told> {
        if self.senders.len() >= self.pruned_at {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            self.pruned_at = MIN_PRUNED.max(self.senders.len() * 2);
        }
        let sender = self.senders.entry(key).or_insert_with(|| broadcast::channel(capacity).0);
        sender.subscribe()
    }

    /// Returns the broadcast of a key, if it has subscribers.
    fn of(&self, key: &K) -> Option<&broadcast::Sender<Told>> {
        self.senders.get(key).filter(|sender| sender.receiver_count() > 0)
    }

    fn receivers(&self) -> usize {
        self.senders.values().map(broadcast::Sender::receiver_count).sum()
    }
}

/// Sends events to subscribers.
#[derive(Debug)]
pub(crate) struct Feed {
    topics: RwLock<Topics>,
    /// The sequence of the last event that was sent, or is about to be.
    position: AtomicU64,
    /// The sequence of the stream's last event when it was last opened.
    head: AtomicU64,
    /// Whether `position` and `head` are known yet.
    aligned: watch::Sender<bool>,
    /// The sequence of the last event that the projection has folded.
    folded: watch::Sender<u64>,
    /// Whether the projection knows every build whose live record has expired.
    knows_past: watch::Sender<bool>,
    caught_up: AtomicBool,
}

/// A place in a broadcast.
pub(crate) struct Subscription {
    /// Gets every event after `position`.
    pub(crate) receiver: broadcast::Receiver<Told>,
    /// The position at the time: everything up to here must be read from the stream.
    pub(crate) position: u64,
    /// The known end of the stream. New events come after it.
    pub(crate) head: u64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            topics: RwLock::default(),
            position: AtomicU64::new(0),
            head: AtomicU64::new(0),
            aligned: watch::Sender::new(false),
            folded: watch::Sender::new(0),
            knows_past: watch::Sender::new(false),
            caught_up: AtomicBool::new(false),
        }
    }
}

impl Feed {
    /// Waits until the position in the stream is known for the first time. An earlier subscriber
    /// would miss older events without noticing.
    pub(crate) async fn aligned_once(&self) {
        let mut aligned = self.aligned.subscribe();
        let _sender_is_ours = aligned.wait_for(|aligned| *aligned).await;
    }

    /// Takes a place in the broadcast of a project's events.
    pub(crate) fn subscribe(&self, project: &ProjectName) -> Subscription {
        self.place(|topics| topics.projects.subscribe(project.clone(), MAX_LAG))
    }

    /// Takes a place in the broadcast of the events of one build, in any project.
    pub(crate) fn subscribe_to_build(&self, build: BuildId) -> Subscription {
        self.place(|topics| topics.builds.subscribe(build, MAX_LAG_OF_BUILD))
    }

    fn place(
        &self,
        subscribe: impl FnOnce(&mut Topics) -> broadcast::Receiver<Told>,
    ) -> Subscription {
        // In this order: `tell` moves the position before it sends, so an event after the position
        // read here is sent after the subscription and is received.
        let receiver = {
            let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            // A broadcast without a sender has ended.
            if topics.closed { broadcast::channel(1).1 } else { subscribe(&mut topics) }
        };
        let position = self.position.load(Ordering::SeqCst);
        let head = self.head.load(Ordering::SeqCst).max(position);
        Subscription { receiver, position, head }
    }

    fn topics(&self) -> std::sync::RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many subscribers there are.
    pub(crate) fn subscribers(&self) -> usize {
        let topics = self.topics();
        topics.projects.receivers() + topics.builds.receivers()
    }

    /// Returns the largest number of unread events among the subscribers of the projects of these
    /// events.
    fn max_unread(&self, arrived: &[Arrived]) -> usize {
        let topics = self.topics();
        let projects: HashSet<&ProjectName> =
            arrived.iter().filter_map(|arrived| arrived.project.as_ref()).collect();
        let followed = projects.into_iter().filter_map(|project| topics.projects.of(project));
        followed.map(broadcast::Sender::len).max().unwrap_or(0)
    }

    /// Sends an event to all subscribers of its project and of its build.
    pub(crate) fn tell(&self, arrived: &Arrived) {
        self.position.fetch_max(arrived.sequence, Ordering::SeqCst);
        let topics = self.topics();
        let project = arrived.project.as_ref().and_then(|project| topics.projects.of(project));
        let build = arrived.build.as_ref().and_then(|build| topics.builds.of(build));
        if project.is_none() && build.is_none() {
            return;
        }
        let Some(notice) = arrived.notice().map(Arc::new) else { return };
        for sender in [project, build].into_iter().flatten() {
            // The last subscriber may just have left.
            let _unheard = sender.send(Told::Event(Arc::clone(&notice)));
        }
    }

    /// Ends every broadcast when the dispatcher stops. Subscribers do not watch a token for that,
    /// because a thousand connections would take one lock with each event.
    pub(crate) fn close(&self) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        *topics = Topics { closed: true, ..Topics::default() };
    }

    /// Notes where reading continues, and where the stream ends.
    pub(crate) fn aligned(&self, position: u64, head: u64, anew: bool) {
        self.head.store(head, Ordering::SeqCst);
        self.position.store(position, Ordering::SeqCst);
        self.aligned.send_replace(true);
        if !anew {
            return;
        }
        self.knows_past.send_replace(false);
        let topics = self.topics();
        let senders = topics.projects.senders.values().chain(topics.builds.senders.values());
        for sender in senders {
            let _unheard = sender.send(Told::Anew);
        }
    }

    /// Notes what the projection has folded.
    pub(crate) fn set_folded(&self, sequence: u64) {
        self.folded.send_replace(sequence);
    }

    /// Notes the time of the last folded event. Once it is recent enough, all later events belong
    /// to builds that have a live record or were folded.
    pub(crate) fn set_folded_until(&self, time: Timestamp) {
        if !self.knows_past() && time > Timestamp::now() - PAST {
            self.knows_past.send_replace(true);
        }
    }

    /// Returns whether a build without a live record that the projection does not know never
    /// existed. This is `false` while the projection is rebuilt, until the last three hours are
    /// reached.
    pub(crate) fn knows_past(&self) -> bool {
        *self.knows_past.borrow()
    }

    /// Waits until that is the case.
    pub(crate) async fn past_known(&self) {
        let mut knows_past = self.knows_past.subscribe();
        let _sender_is_ours = knows_past.wait_for(|knows| *knows).await;
    }

    /// Waits until the projection has folded an event.
    pub(crate) async fn folded(&self, sequence: u64) {
        let mut folded = self.folded.subscribe();
        let _sender_is_ours = folded.wait_for(|folded| *folded >= sequence).await;
    }

    /// Returns whether an event is the last one. The server counts the pending events after it, and
    /// 2.9.10 sometimes counts one too many, so the end that the stream had when it was opened also
    /// counts.
    pub(crate) fn is_at_end(&self, arrived: &Arrived) -> bool {
        arrived.pending == 0 || arrived.sequence >= self.head.load(Ordering::SeqCst)
    }

    /// Returns whether the projection has reached the end of the stream since the start. It is a
    /// latch: falling behind later is load, and no reason to take this dispatcher out of service.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    /// Notes that the projection has folded everything.
    pub(crate) fn set_caught_up(&self) {
        self.knows_past.send_replace(true);
        if !self.caught_up.swap(true, Ordering::Relaxed) {
            tracing::info!("the projection has caught up with the events");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn message(sequence: u64) -> EventMessage {
        EventMessage {
            sequence,
            pending: 0,
            time: slipway_proto::Timestamp::UNIX_EPOCH,
            project: Some("team".parse().expect("a name")),
            build: Some(BuildId::fresh()),
            short_type: "build.finished".into(),
            payload: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn what_is_told_is_what_the_message_says() {
        let arrived = Arrived::of(message(7));
        let notice = arrived.notice().expect("it is an event");
        assert_eq!(notice.project.as_str(), "team");
        assert!(notice.finished);
        assert_eq!(notice.frame, "id: 7\nevent: build.finished\ndata: {}\n\n");
        assert!(arrived.stored().event.is_none(), "the payload is no event");
        let headless = EventMessage { build: None, ..message(8) };
        assert!(Arrived::of(headless).notice().is_none());
    }

    #[test]
    fn a_subscription_knows_what_it_will_not_receive() {
        let feed = Feed::default();
        feed.tell(&Arrived::of(message(3)));
        let mut subscription = feed.subscribe(&"team".parse().expect("a name"));
        feed.tell(&Arrived::of(message(4)));
        assert_eq!(subscription.position, 3);
        let Ok(Told::Event(notice)) = subscription.receiver.try_recv() else { panic!("nothing") };
        assert_eq!(notice.sequence, 4);
        assert!(subscription.receiver.try_recv().is_err());
    }

    #[test]
    fn nobody_is_woken_for_the_events_of_others() {
        let feed = Feed::default();
        let arrived = Arrived::of(message(1));
        let build = arrived.build.expect("it is about one");
        let mut team = feed.subscribe(&"team".parse().expect("a name"));
        let other = feed.subscribe(&"other".parse().expect("a name"));
        let mut this = feed.subscribe_to_build(build);
        let another = feed.subscribe_to_build(BuildId::fresh());
        feed.tell(&arrived);
        assert!(matches!(team.receiver.try_recv(), Ok(Told::Event(_))));
        assert!(matches!(this.receiver.try_recv(), Ok(Told::Event(_))));
        assert!(other.receiver.is_empty() && another.receiver.is_empty());
        feed.aligned(0, 0, true);
        for mut subscription in [team, other, this, another] {
            assert!(matches!(subscription.receiver.try_recv(), Ok(Told::Anew)), "all are told");
        }
    }

    #[test]
    fn the_past_is_known_when_an_event_of_the_last_days_or_the_end_was_folded() {
        let feed = Feed::default();
        let now = Timestamp::now();
        feed.set_folded_until(now - MIN_RECORD_AGE);
        assert!(!feed.knows_past(), "the records of later builds may have expired");
        feed.set_folded_until(now);
        assert!(feed.knows_past());
        feed.aligned(5, 9, false);
        assert!(feed.knows_past(), "a connection that broke changes nothing");
        feed.aligned(0, 9, true);
        assert!(!feed.knows_past());
        feed.set_caught_up();
        assert!(feed.knows_past());
    }

    #[test]
    fn nobody_waits_for_a_feed_that_is_closed() {
        let feed = Feed::default();
        let mut before = feed.subscribe(&"team".parse().expect("a name"));
        feed.tell(&Arrived::of(message(1)));
        feed.close();
        let mut after = feed.subscribe(&"team".parse().expect("a name"));
        assert!(before.receiver.try_recv().is_ok(), "what was told comes first");
        for subscription in [&mut before, &mut after] {
            let closed = broadcast::error::TryRecvError::Closed;
            assert_eq!(subscription.receiver.try_recv().err(), Some(closed));
        }
    }

    #[test]
    fn broadcasts_that_nobody_listens_to_do_not_pile_up() {
        let feed = Feed::default();
        let kept = feed.subscribe_to_build(BuildId::fresh());
        for _ in 0..10 * MIN_PRUNED {
            drop(feed.subscribe_to_build(BuildId::fresh()));
        }
        assert_eq!(feed.subscribers(), 1);
        assert!(feed.topics().builds.senders.len() <= 2 * MIN_PRUNED);
        drop(kept);
    }
}
