// SPDX-License-Identifier: Apache-2.0

//! Breaks the world by a plan, and records what it did.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::history::{History, What};
use super::observer;
use super::plan::{Fault, Plan, Planned, Target};
use super::world::{Program, World};
use crate::faulty_registry::{Misbehaviour, Rule};

/// How long a server may take to store messages again after its disk was full.
const DISK_RECOVERY_DEADLINE: Duration = Duration::from_secs(5);

/// How long a worker may take to reach the failpoint where it stops.
const FREEZE_DEADLINE: Duration = Duration::from_secs(6);

/// How many times a process crashes at its failpoint before it is left alone.
const MAX_CRASHES: u32 = 3;

/// How often a condition is checked.
const FAULT_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Carries out a plan, and returns when the last fault is healed.
///
/// # Panics
///
/// When a fault cannot be healed.
pub(super) async fn carry_out(world: Arc<World>, history: History, plan: Plan, start: Instant) {
    let mut faults = tokio::task::JoinSet::new();
    for (number, planned) in plan.faults.into_iter().enumerate() {
        tokio::time::sleep_until(start + Duration::from_millis(planned.at_ms)).await;
        println!("{planned}");
        let injector =
            Injector { world: Arc::clone(&world), history: history.clone(), number, planned };
        faults.spawn(injector.run());
    }
    while let Some(done) = faults.join_next().await {
        done.expect("every fault is healed");
    }
}

struct Injector {
    world: Arc<World>,
    history: History,
    number: usize,
    planned: Planned,
}

impl Injector {
    async fn run(self) {
        let fault = self.planned.fault.clone();
        self.history.note(What::FaultBegun { number: self.number, fault: fault.clone() });
        match &fault {
            Fault::Kill { target } => self.kill(*target).await,
            Fault::KillLeader => {
                let leader = self.world.nats.lock().await.leader("BUILDS").await;
                self.note(format!("the leader is {leader:?}"));
                self.kill_nodes(&[leader.unwrap_or(0)]).await;
            }
            Fault::KillAllNodes => {
                let nodes = self.world.nats.lock().await.addresses().len();
                self.kill_nodes(&(0..nodes).collect::<Vec<_>>()).await;
            }
            Fault::Stop { target } => self.stop(*target).await,
            Fault::Partition { target } => {
                self.world.links_of(*target).for_each(crate::link::Link::cut);
                self.pause().await;
                self.world.links_of(*target).for_each(crate::link::Link::heal);
            }
            Fault::Reset { target } => {
                self.world.links_of(*target).for_each(crate::link::Link::reset);
            }
            Fault::Misbehave { how, percent } => {
                self.misbehave(how, *percent);
                self.pause().await;
                self.world.faulty.clear();
            }
            Fault::DiskFull => self.fill_disk().await,
            Fault::Crash { target, point } => self.crash(*target, point).await,
            Fault::Freeze { target, point } => {
                let mut program = self.world.program(*target).await;
                self.provoke(&fault);
                let is_frozen = self.frozen(&mut program, point).await;
                self.relent(&fault);
                if is_frozen {
                    self.pause().await;
                    program.signal("CONT");
                }
            }
            Fault::Strand { target } => {
                let mut program = self.world.program(*target).await;
                if self.frozen(&mut program, "commit.announced").await {
                    self.world.links_of(*target).for_each(crate::link::Link::cut);
                    program.signal("CONT");
                    self.pause().await;
                    self.world.links_of(*target).for_each(crate::link::Link::heal);
                }
            }
        }
        self.history.note(What::FaultEnded { number: self.number });
        if let Fault::Kill { target: Target::Dispatcher(number) }
        | Fault::Crash { target: Target::Dispatcher(number), .. } = fault
        {
            let healed = Instant::now();
            self.world.dispatcher_ready(number).await;
            self.note(format!("{ANSWERS_AFTER}{:.1} s", healed.elapsed().as_secs_f64()));
        }
    }

    fn note(&self, note: String) {
        self.history.note(What::FaultNote { number: self.number, note });
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(self.planned.duration_ms)).await;
    }

    async fn kill(&self, target: Target) {
        match target {
            Target::Dispatcher(_) | Target::Worker(_) => {
                // Held all the time, so that nothing starts the process early.
                let mut program = self.world.program(target).await;
                program.kill();
                self.pause().await;
                program.start(None);
            }
            Target::Nats(node) => self.kill_nodes(&[node]).await,
            Target::Registry => {
                let mut registry = self.world.registry.lock().await;
                registry.kill();
                self.pause().await;
                registry.restart().await;
            }
        }
    }

    async fn kill_nodes(&self, nodes: &[usize]) {
        let mut nats = self.world.nats.lock().await;
        nodes.iter().for_each(|node| nats.kill(*node));
        self.pause().await;
        for node in nodes {
            nats.restart(*node).await;
        }
    }

    async fn stop(&self, target: Target) {
        match target {
            Target::Nats(node) => {
                let nats = self.world.nats.lock().await;
                nats.signal(node, "STOP");
                self.pause().await;
                nats.signal(node, "CONT");
            }
            Target::Registry => {}
            Target::Dispatcher(_) | Target::Worker(_) => {
                let mut program = self.world.program(target).await;
                program.signal("STOP");
                self.pause().await;
                program.signal("CONT");
            }
        }
    }

    async fn fill_disk(&self) {
        let Some(disk) = self.world.disk() else {
            return self.note("there is no disk to fill: not permitted here".to_owned());
        };
        tokio::task::block_in_place(|| disk.fill());
        self.pause().await;
        disk.free();
        // Debian's server accepts no more requests, or stores nothing, until it is started again.
        let url = &self.world.nats_url;
        let freed = Instant::now();
        let before = observer::written(url).await.ok();
        while freed.elapsed() < DISK_RECOVERY_DEADLINE {
            tokio::time::sleep(FAULT_POLL_INTERVAL).await;
            let now = observer::written(url).await.ok();
            let grows = |(before, now): (&u64, &u64)| before < now;
            if let (Some(before), Some(now)) = (&before, &now)
                && before.iter().zip(now).all(grows)
            {
                let seconds = freed.elapsed().as_secs_f64();
                return self.note(format!("the server recovers by itself after {seconds:.1} s"));
            }
        }
        self.note("the server does not recover by itself, and is started again".to_owned());
        let mut nats = self.world.nats.lock().await;
        nats.kill(0);
        nats.restart(0).await;
    }

    async fn crash(&self, target: Target, point: &str) {
        let patience = Duration::from_millis(self.planned.duration_ms);
        let armed = format!("{point}=abort");
        let mut program = self.world.program(target).await;
        self.provoke(&self.planned.fault);
        program.kill();
        program.start(Some(&armed));
        let begun = Instant::now();
        let mut crashes = 0;
        while begun.elapsed() < patience && crashes < MAX_CRASHES {
            match program.ended().await {
                Some(how) => {
                    // Without a signal, it found no server when it started.
                    if how.contains("signal") {
                        crashes += 1;
                        self.note(format!("{CRASHED}{point}"));
                    }
                    program.start(Some(&armed));
                }
                None => tokio::time::sleep(FAULT_POLL_INTERVAL).await,
            }
        }
        if crashes == 0 {
            self.note(format!("did not come to {point}, and is killed"));
        }
        self.relent(&self.planned.fault);
        program.kill();
        program.start(None);
    }

    /// Makes the registry refuse if a process reaches its failpoint only when a build fails.
    fn provoke(&self, fault: &Fault) {
        if fault.is_about_failures() {
            self.misbehave("server_error", 90);
        }
    }

    fn relent(&self, fault: &Fault) {
        if fault.is_about_failures() {
            self.world.faulty.clear();
        }
    }

    fn misbehave(&self, how: &str, percent: u32) {
        self.world.faulty.add_rule(Rule {
            method: None,
            path_contains: "/v2/".to_owned(),
            misbehaviour: misbehaviour(how),
            times: None,
            probability: f64::from(percent) / 100.0,
        });
    }

    /// Starts a worker again so that it stops at a failpoint, and returns whether it does.
    async fn frozen(&self, program: &mut Program, point: &str) -> bool {
        let armed = format!("{point}=stop");
        program.kill();
        program.start(Some(&armed));
        let begun = Instant::now();
        while begun.elapsed() < FREEZE_DEADLINE && !program.is_stopped() {
            if program.ended().await.is_some() {
                program.start(Some(&armed));
            }
            tokio::time::sleep(FAULT_POLL_INTERVAL).await;
        }
        if program.is_stopped() {
            self.note(format!("{FROZEN}{point}"));
            return true;
        }
        self.note(format!("did not come to {point}"));
        program.kill();
        program.start(None);
        false
    }
}

/// The start of the note on how long a dispatcher took to answer again.
pub(crate) const ANSWERS_AFTER: &str = "answers after ";
/// The start of the note that a process crashed at its failpoint.
pub(crate) const CRASHED: &str = "crashed at ";
/// The start of the note that a process stopped at its failpoint.
pub(crate) const FROZEN: &str = "froze at ";

fn misbehaviour(how: &str) -> Misbehaviour {
    match how {
        "unauthorized" => Misbehaviour::Unauthorized,
        "forbidden" => Misbehaviour::Forbidden,
        "too_many_requests" => Misbehaviour::TooManyRequests { retry_after_s: 1 },
        "server_error" => Misbehaviour::ServerError(500),
        "unavailable" => Misbehaviour::ServerError(503),
        "slow" => Misbehaviour::Slow { millis: 1500 },
        "reset_mid_body" => Misbehaviour::ResetMidBody,
        "lose_answer" => Misbehaviour::LoseAnswer,
        "wrong_digest" => Misbehaviour::WrongDigest,
        other => panic!("the registry cannot misbehave as {other}"),
    }
}
