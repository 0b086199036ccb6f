// SPDX-License-Identifier: Apache-2.0

//! What happens in a run, drawn from a seed, and made good at its end.

use slipway_tests::chaos::random::Random;

use super::actors::{Call, Choice, Interruption};
use super::scene::{BUILDS, DISPATCHERS, Scene, TAGS, WORKERS};
use super::world::Server;

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
        58..72 => Command::Ask(dispatcher, Call::Submit, build),
        72..75 => Command::Ask(dispatcher, Call::Cancel, build),
        75..78 => Command::Ask(dispatcher, Call::Replay, build),
        78 => Command::Ask(dispatcher, Call::Drop, build),
        79..82 => Command::Sweep(dispatcher),
        82..84 => Command::CrashDispatcher(dispatcher),
        84..88 => Command::CrashWorker(worker),
        88..95 => Command::EndLease(random.index(WORKERS)),
        95..97 => Command::Interrupt(worker, Interruption::Lost),
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
        93..97 => Command::Interrupt(worker, Interruption::Lost),
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
                    self.step_dispatcher(number).await;
                }
            }
            Command::Work(number, steps, choice) => {
                for step in (0..steps).rev() {
                    let choice = if step == 0 { choice } else { Choice::Well };
                    self.step_worker(number, choice).await;
                }
            }
            Command::Ask(_, Call::Replay, _) if !self.faults.replays => {}
            Command::Ask(number, call, build) => {
                let build = self.id(build);
                self.dispatchers[number].begin(call, build);
            }
            Command::Sweep(number) => self.begin_sweep(number),
            Command::CrashDispatcher(number) if self.faults.dispatchers_crash => {
                self.dispatchers[number].crash();
            }
            Command::CrashDispatcher(_) => {}
            Command::CrashWorker(number) => self.workers[number].crash(self.faults.sleepers_die),
            Command::EndLease(number) => self.end_lease(number).await,
            Command::Interrupt(number, how) => {
                let look_after_end = self.rules.look_after_end;
                self.workers[number].interrupt(how, look_after_end);
            }
            Command::WindowPasses => self.let_window_pass().await,
        }
    }

    fn begin_sweep(&mut self, number: usize) {
        if self.rules.reconciler {
            self.dispatchers[number].begin_sweep();
        }
    }

    async fn end_lease(&mut self, number: usize) {
        if self.outstanding.is_empty() {
            return;
        }
        let delivery = self.outstanding[number % self.outstanding.len()];
        self.give_back(delivery).await;
    }

    async fn let_window_pass(&mut self) {
        let dispatchers = self.dispatchers.iter().all(super::actors::Dispatcher::is_idle);
        if dispatchers && self.workers.iter().all(super::actors::Worker::is_idle) {
            self.server.window_passes().await;
            self.note_window();
        }
    }

    /// Lets everything go on without faults until nothing moves any more.
    pub(crate) async fn heal(&mut self) {
        let mut passed = false;
        for _ in 0..MAX_ROUNDS {
            let before = self.history.moves;
            self.finish_everything().await;
            for delivery in self.outstanding.clone() {
                self.give_back(delivery).await;
            }
            self.begin_sweep(0);
            self.finish_everything().await;
            if self.history.moves > before {
                passed = false;
            } else if passed {
                return;
            } else {
                // What was refused as a repetition is not refused now.
                self.let_window_pass().await;
                passed = true;
            }
        }
        self.history.broken.push("it does not come to rest".to_owned());
    }

    async fn finish_everything(&mut self) {
        for number in 0..DISPATCHERS {
            for _ in 0..MAX_STEPS {
                if self.dispatchers[number].is_idle() {
                    break;
                }
                self.step_dispatcher(number).await;
            }
        }
        for number in 0..WORKERS {
            for _ in 0..MAX_STEPS {
                self.step_worker(number, Choice::Well).await;
                if self.workers[number].is_idle() {
                    break;
                }
            }
        }
    }
}
