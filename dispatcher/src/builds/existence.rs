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

use crate::app::App;

/// How many questions go together at most: a batch's window.
const MAX_TOGETHER: usize = 256;

/// Collects questions.
#[derive(Debug, Default)]
pub(crate) struct Known {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    questions: Vec<Question>,
    /// Whether somebody asks them.
    asked: bool,
}

#[derive(Debug)]
struct Question {
    build: (ProjectName, BuildId),
    answer: oneshot::Sender<bool>,
}

impl Known {
    /// Returns whether the projection knows a build; `None` when it could not be asked.
    pub(crate) async fn is(app: &Arc<App>, project: &ProjectName, build: BuildId) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        let question = Question { build: (project.clone(), build), answer };
        if app.known.add(question) {
            let asking = Arc::clone(app);
            app.tasks.spawn(async move { ask(&asking).await });
        }
        answered.await.ok()
    }

    /// Adds a question, and returns whether the caller has to ask.
    fn add(&self, question: Question) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.questions.push(question);
        !std::mem::replace(&mut waiting.asked, true)
    }

    /// Takes the questions that are asked together next; none when all have been asked.
    fn next(&self) -> Vec<Question> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let together = waiting.questions.len().min(MAX_TOGETHER);
        waiting.asked = together > 0;
        waiting.questions.drain(..together).collect()
    }
}

/// Asks until nobody waits.
async fn ask(app: &App) {
    loop {
        let questions = app.known.next();
        if questions.is_empty() {
            return;
        }
        let builds = questions.iter().map(|question| question.build.clone()).collect();
        match app.projection.states(builds).await {
            Ok(states) => {
                for (question, state) in questions.into_iter().zip(states) {
                    // Nobody waits any more where a client has gone.
                    let _gone = question.answer.send(state.is_some());
                }
            }
            // Dropping the questions ends the waiting of their callers.
            Err(error) => tracing::warn!(error = chain(&error), "the projection is not readable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_go_together_and_one_asks_them() {
        let known = Known::default();
        let ask = || {
            let (answer, answered) = oneshot::channel();
            let build = ("team".parse().expect("a name"), BuildId::fresh());
            (known.add(Question { build, answer }), answered)
        };
        assert!(ask().0, "the first sees to it");
        assert!((0..MAX_TOGETHER).all(|_| !ask().0), "the others rely on it");
        assert_eq!(known.next().len(), MAX_TOGETHER);
        assert!(!ask().0, "while it asks");
        assert_eq!(known.next().len(), 2);
        assert_eq!(known.next().len(), 0);
        assert!(ask().0, "it has ended");
    }
}
