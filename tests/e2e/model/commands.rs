// SPDX-License-Identifier: Apache-2.0

//! What happens in a run, drawn from a seed, and made good at its end.

use slipway_queue::delivery::Answer;
use slipway_tests::chaos::random::Random;

use super::actors::{Call, Dispatcher, Interruption, Worker};
use super::gate::Choice;
use super::scene::{DISPATCHERS, Scene, WORKERS};
use super::server::{Server, Taken};
use super::world::{BUILDS, TAGS};

/// How many steps an acceptance takes at the most.
const ACCEPT_STEPS: usize = 6;
/// The most rounds in which a run comes to rest. Some ten suffice.
const MAX_ROUNDS: usize = 60;
/// The most steps that one actor takes for one request.
const MAX_STEPS: usize = 200;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// A dispatcher does its next steps.
    Dispatch(usize, usize),
    /// A worker does its next steps, the first of which come out well.
    Work(usize, usize, Choice),
    /// A dispatcher is asked for something about a build.
    Ask(usize, Call, usize),
    /// A dispatcher sweeps, as the reconciler.
    Sweep(usize),
    /// A dispatcher dies and is started again.
    CrashDispatcher(usize),
    /// A worker dies and is started again.
    CrashWorker(usize),
    /// The lease of a request ends, whether its worker lives or not.
    EndLease(usize),
    /// An attempt is ended from outside.
    Interrupt(usize, Interruption),
    /// While nobody does anything, so much time passes that ids come to be new again.
    WindowPasses,
}

/// Draws what happens in one run: in turn of everything, of what happens to two builds of one tag,
/// and of what workers do that sleep beyond their leases.
pub(crate) fn draw(seed: u64, length: usize) -> Vec<Command> {
    let mut random = Random::new(seed);
    let draw_one = match seed % 3 {
        0 => return (0..length).map(|_| draw_any(&mut random)).collect(),
        1 => draw_about_tags,
        _ => draw_about_sleepers,
    };
    let accepted = [0, TAGS]
        .map(|build| [Command::Ask(0, Call::Submit, build), Command::Dispatch(0, ACCEPT_STEPS)]);
    let further = (0..length).map(|_| draw_one(&mut random));
    accepted.into_iter().flatten().chain(further).collect()
}

fn draw_any(random: &mut Random) -> Command {
    let dispatcher = random.index(DISPATCHERS);
    let worker = random.index(WORKERS);
    let build = random.index(BUILDS);
    let steps = 1 + random.index(6);
    match random.below(100) {
        0..20 => Command::Dispatch(dispatcher, steps),
        20..58 => Command::Work(worker, steps, draw_choice(random)),
        58..70 => Command::Ask(dispatcher, Call::Submit, build),
        70..72 => Command::Ask(dispatcher, Call::SubmitOther, build),
        72..75 => Command::Ask(dispatcher, Call::Cancel, build),
        75..78 => Command::Ask(dispatcher, Call::Replay, build),
        78 => Command::Ask(dispatcher, Call::Drop, build),
        79..82 => Command::Sweep(dispatcher),
        82..84 => Command::CrashDispatcher(dispatcher),
        84..88 => Command::CrashWorker(worker),
        88..95 => Command::EndLease(random.index(WORKERS)),
        95 => Command::Interrupt(worker, Interruption::Lost),
        96 => Command::Interrupt(worker, Interruption::Notice),
        97 => Command::Interrupt(worker, Interruption::Deadline),
        _ => Command::WindowPasses,
    }
}

fn draw_about_tags(random: &mut Random) -> Command {
    let worker = random.index(WORKERS);
    let steps = 1 + random.index(3);
    match random.below(100) {
        0..72 => Command::Work(worker, steps, draw_choice(random)),
        72..78 => Command::Dispatch(0, steps),
        78..80 => Command::Ask(0, Call::Cancel, random.index(2) * TAGS),
        80 => Command::Sweep(1),
        81..86 => Command::CrashWorker(worker),
        86..93 => Command::EndLease(random.index(WORKERS)),
        93..96 => Command::Interrupt(worker, Interruption::Lost),
        96 => Command::Interrupt(worker, Interruption::Notice),
        _ => Command::Interrupt(worker, Interruption::Deadline),
    }
}

fn draw_about_sleepers(random: &mut Random) -> Command {
    let worker = random.index(WORKERS);
    let steps = if random.percent(50) { 1 } else { 2 + random.index(11) };
    match random.below(100) {
        0..70 => Command::Work(worker, steps, Choice::Well),
        70..84 => Command::EndLease(random.index(WORKERS)),
        84..92 => Command::CrashWorker(worker),
        _ => Command::Interrupt(worker, Interruption::Lost),
    }
}

fn draw_choice(random: &mut Random) -> Choice {
    match random.below(20) {
        0..3 => Choice::Transient,
        3 => Choice::Permanent,
        4 => Choice::HandBack,
        _ => Choice::Well,
    }
}

impl<S: Server> Scene<S> {
    /// Has something happen.
    pub(crate) async fn run(&mut self, command: Command) {
        match command {
            Command::Dispatch(number, steps) => {
                for _ in 0..steps {
                    self.dispatchers[number].step().await;
                }
            }
            Command::Work(number, steps, choice) => {
                for step in (0..steps).rev() {
                    let choice = if step == 0 { choice } else { Choice::Well };
                    self.workers[number].step(&self.world, number, choice).await;
                }
            }
            Command::Ask(_, Call::Replay, _) if !self.faults.replays => {}
            Command::Ask(number, call, build) => {
                self.dispatchers[number].begin(&self.world, call, build).await;
            }
            Command::Sweep(number) => self.begin_sweep(number).await,
            Command::CrashDispatcher(number) if self.faults.dispatchers_crash => {
                self.dispatchers[number].crash();
            }
            Command::CrashDispatcher(_) => {}
            Command::CrashWorker(number) => self.workers[number].crash(self.faults.sleepers_die),
            Command::EndLease(number) => self.end_lease(number).await,
            Command::Interrupt(number, how) => self.workers[number].interrupt(how).await,
            Command::WindowPasses => self.let_window_pass().await,
        }
    }

    async fn begin_sweep(&mut self, number: usize) {
        if self.faults.reconciles {
            self.dispatchers[number].begin_sweep(&self.world).await;
        }
    }

    async fn end_lease(&mut self, number: usize) {
        let outstanding = self.world.outstanding();
        if let Some(taken) = outstanding.get(number % outstanding.len().max(1)) {
            self.give_back(taken).await;
        }
    }

    /// Has a request delivered again, whoever holds it by now.
    async fn give_back(&mut self, taken: &Taken<S::Delivery>) {
        let answer = Answer::GiveBack(None);
        let _always = self.world.server.answer(&taken.delivery, answer).await;
        for worker in &mut self.workers {
            worker.fall_asleep(taken.sequence);
        }
    }

    async fn let_window_pass(&mut self) {
        let dispatchers = self.dispatchers.iter().all(Dispatcher::is_idle);
        if dispatchers && self.workers.iter().all(Worker::is_idle) {
            self.world.let_window_pass().await;
        }
    }

    /// Lets everything go on without faults until nothing moves any more.
    pub(crate) async fn heal(&mut self) {
        let mut passed = false;
        for _ in 0..MAX_ROUNDS {
            let before = self.world.history().moves;
            self.finish_everything().await;
            for taken in self.world.outstanding() {
                self.give_back(&taken).await;
            }
            self.begin_sweep(0).await;
            self.finish_everything().await;
            if self.world.history().moves > before {
                passed = false;
            } else if passed {
                return;
            } else {
                // What was refused as a repetition is not refused now.
                self.let_window_pass().await;
                passed = true;
            }
        }
        self.world.history().broken.push("it does not come to rest".to_owned());
    }

    async fn finish_everything(&mut self) {
        for number in 0..DISPATCHERS {
            for _ in 0..MAX_STEPS {
                if self.dispatchers[number].is_idle() {
                    break;
                }
                self.dispatchers[number].step().await;
            }
        }
        for number in 0..WORKERS {
            for _ in 0..MAX_STEPS {
                self.workers[number].step(&self.world, number, Choice::Well).await;
                if self.workers[number].is_idle() {
                    break;
                }
            }
        }
    }
}
