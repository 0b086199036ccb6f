// SPDX-License-Identifier: Apache-2.0

//! Where an actor waits before each durable operation until the scene lets it do one.
//!
//! An actor is a future of product code. Between two steps it is parked here, and there it can be
//! left alone, interrupted, or dropped, which is a crash.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// How what a step does comes out, where that is not for the server to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Well.
    Well,
    /// It fails in a way that may pass. The write of a tag may arrive all the same; an event that is
    /// sent is lost.
    Transient,
    /// It fails for good.
    Permanent,
    /// The worker is told to stop, and gives the build back.
    HandBack,
}

/// An actor at work.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The gate of one actor. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    permit: Option<Choice>,
    /// How many operations go on.
    running: usize,
    waiting: Vec<Waker>,
}

/// An operation that goes on.
#[must_use]
pub(crate) struct Turn {
    gate: Gate,
    pub(crate) choice: Choice,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.inner().running -= 1;
    }
}

impl Gate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the scene lets the actor do its next operation.
    pub(crate) async fn turn(&self) -> Turn {
        let choice = std::future::poll_fn(|context| self.poll_turn(context)).await;
        Turn { gate: self.clone(), choice }
    }

    /// Notes an operation that belongs to the one before, and so needs no turn.
    pub(crate) fn beside(&self) -> Turn {
        self.inner().running += 1;
        Turn { gate: self.clone(), choice: Choice::Well }
    }

    fn poll_turn(&self, context: &Context<'_>) -> Poll<Choice> {
        let mut inner = self.inner();
        match inner.permit.take() {
            Some(choice) => {
                inner.running += 1;
                Poll::Ready(choice)
            }
            None => {
                inner.waiting.push(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Lets an actor do one operation, and go on to the next; returns whether it has come to its
    /// end.
    pub(crate) async fn step(&self, task: &mut Task, choice: Choice) -> bool {
        self.inner().permit = Some(choice);
        let ended = self.settle(task).await;
        // It waited for something else.
        self.inner().permit = None;
        ended
    }

    /// Lets an actor go on to its next operation; returns whether it has come to its end.
    pub(crate) async fn settle(&self, task: &mut Task) -> bool {
        let waiting = std::mem::take(&mut self.inner().waiting);
        waiting.into_iter().for_each(Waker::wake);
        std::future::poll_fn(|context| match task.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if self.inner().running == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
