// SPDX-License-Identifier: Apache-2.0

//! The situation that each of the product's protections exists for.
//!
//! A random plan meets such a situation now and then. Here it is made on purpose, so that a
//! protection that is switched off is missed every time. The same checker then reads the same kind
//! of history.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};

use super::checker::{self, Violation};
use super::history::{self, Ask, History, What};
use super::load::client::{Answer, Client};
use super::observer::{Follower, Source};
use super::plan::{Fault, Target};
use super::world::{World, WorldOptions};
use super::{HISTORY, collect};
use crate::faulty_registry::{Misbehaviour, Rule};
use crate::{artifacts, wait};

const PROJECT: &str = "red";
const SLEEPER: Target = Target::Worker(0);
const OTHER: Target = Target::Worker(1);

/// How long the system may make no progress towards rest: a lease and a few sweeps of the
/// reconciler.
const SCENARIO_STALL_LIMIT: Duration = Duration::from_secs(30);

/// What protects accepted builds and tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// A change of a build's record names the claim it was made under.
    EpochFencing,
    /// A worker counts a build as settled when the server has confirmed the acknowledgement.
    ConfirmedAck,
    /// The reconciler finishes a build that a dispatcher left half accepted.
    AcceptReconciler,
    /// A tag belongs to the build that was submitted last, in whatever order builds write it.
    TagFencing,
    /// A worker that cannot be sure of its lease does nothing that others can see.
    SelfFencing,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EpochFencing => "epoch-fencing",
            Self::ConfirmedAck => "confirmed-ack",
            Self::AcceptReconciler => "accept-reconciler",
            Self::TagFencing => "tag-fencing",
            Self::SelfFencing => "self-fencing",
        })
    }
}

/// Brings the product into the situation that a protection exists for, with the protection on or
/// off, and returns the checker's findings.
///
/// # Errors
///
/// When the history cannot be collected.
///
/// # Panics
///
/// When the situation does not occur.
pub async fn violations(protection: Protection, off: bool) -> anyhow::Result<Vec<Violation>> {
    let directory = tempfile::tempdir()?;
    let history = History::create(&directory.path().join(HISTORY));
    let world = World::start(&WorldOptions {
        directory: directory.path().to_owned(),
        server: None,
        nodes: 1,
        stores: None,
        switch_off: off.then(|| protection.to_string()),
        workers: 0,
        seed: 1,
    })
    .await;
    let world = Arc::new(world);
    let logs = Follower::start(Source::Logs, &world.nats_url, &history);
    let records = Follower::start(Source::Records, &world.nats_url, &history);
    let client = Client::new(Arc::clone(&world), history.clone(), Arc::new(AtomicU64::new(0)));
    let situation =
        Situation { world: &world, client, history: &history, directory: directory.path() };
    match protection {
        Protection::EpochFencing => situation.late_failure().await,
        Protection::ConfirmedAck => situation.lost_acknowledgement().await,
        Protection::AcceptReconciler => situation.half_accepted().await,
        Protection::TagFencing => situation.overtaken().await,
        Protection::SelfFencing => situation.slept_past_its_lease().await,
    }
    drop(situation);
    world.heal().await;
    history.note(What::Healed);
    collect::rest(&world, &history, SCENARIO_STALL_LIMIT).await;
    records.finish().await?;
    logs.finish().await?;
    collect::collect(&world, &history).await?;
    drop(world);
    Ok(checker::check(&history::read(&directory.path().join(HISTORY))?))
}

struct Situation<'a> {
    world: &'a World,
    client: Client,
    history: &'a History,
    directory: &'a Path,
}

impl Situation<'_> {
    /// A worker sleeps just before it records a failure. Another builds it meanwhile.
    async fn late_failure(&self) {
        self.registry_once("PUT", "/manifests/sha256:", Misbehaviour::Forbidden);
        self.start(SLEEPER, Some("settle.before_record=stop")).await;
        let build = self.submit("a").await;
        self.stopped(SLEEPER).await;
        self.start(OTHER, None).await;
        self.finished(&build).await;
        self.wake(SLEEPER).await;
        // With the fence it finds that it lost the build. Without it, it settles the build again.
        self.logged(SLEEPER, &["lost a build", "a build was ended by others", "settled"]).await;
    }

    /// A worker sleeps between its claim of a tag and its write. Another builds it meanwhile.
    async fn slept_past_its_lease(&self) {
        self.start(SLEEPER, Some("tag.claimed=stop")).await;
        let build = self.submit("a").await;
        self.stopped(SLEEPER).await;
        self.start(OTHER, None).await;
        self.finished(&build).await;
        self.wake(SLEEPER).await;
        self.logged(SLEEPER, &["lost a build", "a build was ended by others"]).await;
    }

    /// An older build's write of the tag takes long, and a newer build's write does not.
    async fn overtaken(&self) {
        self.registry_once("PUT", "/manifests/1", Misbehaviour::Slow { millis: 3000 });
        self.start(SLEEPER, None).await;
        let older = self.submit("older").await;
        wait::until("the older build's write", wait::SOON, || async {
            (self.world.faulty.faults() > 0).then_some(())
        })
        .await;
        let newer = self.submit("newer").await;
        self.finished(&newer).await;
        self.finished(&older).await;
    }

    /// A dispatcher dies between the record and the request, and the client does not ask again.
    async fn half_accepted(&self) {
        self.start(OTHER, None).await;
        let dispatcher = Target::Dispatcher(0);
        self.world.program(dispatcher).await.kill();
        self.start(dispatcher, Some("accept.created=abort")).await;
        self.world.dispatcher_ready(0).await;
        let answer = self.ask("a").await;
        assert_eq!(answer.status, None, "the dispatcher died before it answered");
        wait::until("the dispatcher's end", wait::SOON, || async {
            self.world.program(dispatcher).await.ended().await
        })
        .await;
    }

    /// A worker's acknowledgement does not arrive.
    async fn lost_acknowledgement(&self) {
        self.start(SLEEPER, Some("commit.announced=stop")).await;
        let build = self.submit("a").await;
        self.stopped(SLEEPER).await;
        self.world.links_of(SLEEPER).for_each(crate::link::Link::cut);
        self.wake(SLEEPER).await;
        self.start(OTHER, None).await;
        self.finished(&build).await;
        self.logged(OTHER, &["a finished build was delivered again"]).await;
    }

    fn registry_once(&self, method: &'static str, path: &str, misbehaviour: Misbehaviour) {
        self.world.faulty.add_rule(Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: Some(1),
            probability: 1.0,
        });
    }

    async fn start(&self, target: Target, failpoints: Option<&str>) {
        self.world.program(target).await.start(failpoints);
    }

    async fn stopped(&self, target: Target) {
        wait::until(&format!("{target} to stop"), wait::SOON, || async {
            self.world.program(target).await.is_stopped().then_some(())
        })
        .await;
        self.history.note(What::FaultBegun { number: 0, fault: Fault::Stop { target } });
    }

    async fn wake(&self, target: Target) {
        self.world.program(target).await.signal("CONT");
        self.history.note(What::FaultEnded { number: 0 });
    }

    /// Waits until a process has logged one of the texts.
    async fn logged(&self, target: Target, texts: &[&str]) {
        let path = self.directory.join(format!("{target}.log"));
        wait::until(&format!("{target} to say {texts:?}"), wait::LATER, || async {
            let log = std::fs::read_to_string(&path).ok()?;
            texts.iter().any(|text| log.contains(text)).then_some(())
        })
        .await;
    }

    async fn ask(&self, marker: &str) -> Answer {
        let bytes = artifacts::elf(62, marker);
        let artifact = self.client.upload(0, PROJECT, bytes).await.expect("it is uploaded");
        let image = format!("{}/chaos/app:1", self.world.faulty.address());
        let request = json!({"artifact": artifact, "image": image, "environment": "scratch"});
        let ask = Ask::Submit { project: PROJECT.to_owned(), key: marker.to_owned(), request };
        self.client.ask(0, &ask, Duration::from_secs(10)).await
    }

    async fn submit(&self, marker: &str) -> String {
        let answer = self.ask(marker).await;
        assert_eq!(answer.status, Some(202), "{}", answer.body);
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    async fn finished(&self, build: &str) {
        let url = self.world.url(0, &format!("/v1/projects/{PROJECT}/builds/{build}"));
        wait::until(&format!("the end of build {build}"), wait::LATER, || async {
            let answer = self.world.client.get(&url).send().await.ok()?;
            let view: Value = answer.json().await.ok()?;
            view["finished_at"].is_string().then_some(())
        })
        .await;
    }
}
