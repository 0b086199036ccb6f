// SPDX-License-Identifier: Apache-2.0

//! Asks the projection whether it knows builds, many at once.
//!
//! Each submission with a key asks. A query of the projection runs on a blocking thread, and the
//! way there and back costs several times the answer. So queries that arrive while one is under way
//! are sent together in the next.

use std::sync::{Arc, Mutex, PoisonError};

use slipway_fault::chain;
use slipway_proto::{BuildId, ProjectName};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::events::projection::Projection;

/// How many questions go together at most: a batch's window.
const MAX_QUESTIONS: usize = 256;

/// Asks the projection whether it knows builds. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Existence {
    projection: Projection,
    tasks: TaskTracker,
    questions: Arc<Questions>,
}

/// The questions that wait.
#[derive(Debug, Default)]
struct Questions(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    questions: Vec<Question>,
    /// Whether a task asks them.
    asked: bool,
}

#[derive(Debug)]
struct Question {
    build: (ProjectName, BuildId),
    answer: oneshot::Sender<bool>,
}

impl Existence {
    pub(crate) fn new(projection: Projection, tasks: TaskTracker) -> Self {
        Self { projection, tasks, questions: Arc::default() }
    }

    /// Returns whether the projection knows a build; `None` when it could not be asked.
    pub(crate) async fn knows(&self, project: &ProjectName, build: BuildId) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        let question = Question { build: (project.clone(), build), answer };
        if self.questions.add(question) {
            let asking = self.clone();
            self.tasks.spawn(async move { asking.ask_all().await });
        }
        answered.await.ok()
    }

    /// Asks until no question waits.
    async fn ask_all(&self) {
        loop {
            let questions = self.questions.next();
            if questions.is_empty() {
                return;
            }
            let builds = questions.iter().map(|question| question.build.clone()).collect();
            match self.projection.states(builds).await {
                Ok(states) => {
                    for (question, state) in questions.into_iter().zip(states) {
                        // A client that has gone no longer waits.
                        let _gone = question.answer.send(state.is_some());
                    }
                }
                // The dropped questions tell those that wait.
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the projection is not readable");
                }
            }
        }
    }
}

impl Questions {
    /// Adds a question, and returns whether the caller must start to ask.
    fn add(&self, question: Question) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.questions.push(question);
        !std::mem::replace(&mut waiting.asked, true)
    }

    /// Takes the questions that go together next; an empty list says that all were asked.
    fn next(&self) -> Vec<Question> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let together = waiting.questions.len().min(MAX_QUESTIONS);
        waiting.asked = together > 0;
        waiting.questions.drain(..together).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_go_together_and_one_asks_them() {
        let waiting = Questions::default();
        let ask = || {
            let (answer, answered) = oneshot::channel();
            let build = ("team".parse().expect("a name"), BuildId::fresh());
            (waiting.add(Question { build, answer }), answered)
        };
        assert!(ask().0, "the first sees to it");
        assert!((0..MAX_QUESTIONS).all(|_| !ask().0), "the others rely on it");
        assert_eq!(waiting.next().len(), MAX_QUESTIONS);
        assert!(!ask().0, "while it asks");
        assert_eq!(waiting.next().len(), 2);
        assert_eq!(waiting.next().len(), 0);
        assert!(ask().0, "it has ended");
    }
}
