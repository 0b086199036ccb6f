// SPDX-License-Identifier: Apache-2.0

//! Does the same for each of several things. A refusal of one is reported, and the rest are done.

use std::fmt::Display;

use serde::Serialize;
use slipway_proto::api::Problem;

use crate::output::Output;
use slipway_client::{ClientError, describe};
use slipway_service::Exit;

/// The result for one of them.
#[derive(Debug, Serialize)]
struct Answer<T> {
    id: String,
    #[serde(flatten)]
    verdict: Verdict<T>,
}

/// The server's answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict<T> {
    Result(T),
    Problem(Box<Problem>),
}

/// Asks for each in turn. For people, each is reported as it is done. For programs, all are in one
/// list at the end, even if the server went away.
pub(super) async fn each<I: Display, T: Serialize>(
    output: &Output,
    things: &[I],
    ask: impl AsyncFn(&I) -> Result<T, ClientError>,
    done: impl Fn(&I, &T) -> String,
) -> Result<Exit, ClientError> {
    let tell = |thing: &I, verdict: &Verdict<T>| match verdict {
        Verdict::Result(result) if !output.is_json() => output.result(&done(thing, result)),
        Verdict::Result(_) => {}
        Verdict::Problem(problem) => {
            output.note(&format!("error: {thing}: {}", describe(problem)));
        }
    };
    let (answers, gone) = collect(things, ask, tell).await;
    if output.is_json() {
        output.document(&answers);
    }
    gone.map_or(Ok(exit_of(&answers)), Err)
}

/// Asks until all have answered, or an error concerns more than one of them.
async fn collect<I: Display, T>(
    things: &[I],
    ask: impl AsyncFn(&I) -> Result<T, ClientError>,
    tell: impl Fn(&I, &Verdict<T>),
) -> (Vec<Answer<T>>, Option<ClientError>) {
    let mut answers = Vec::new();
    for thing in things {
        let verdict = match verdict(ask(thing).await) {
            Ok(verdict) => verdict,
            Err(error) => return (answers, Some(error)),
        };
        tell(thing, &verdict);
        answers.push(Answer { id: thing.to_string(), verdict });
    }
    (answers, None)
}

fn exit_of<T>(answers: &[Answer<T>]) -> Exit {
    let refused = answers.iter().any(|answer| matches!(answer.verdict, Verdict::Problem(_)));
    if refused { Exit::Failed } else { Exit::Ok }
}

/// Separates the server's verdict on one of them from an error that the next would also get.
fn verdict<T>(answer: Result<T, ClientError>) -> Result<Verdict<T>, ClientError> {
    match answer {
        Ok(result) => Ok(Verdict::Result(result)),
        Err(error) if error.is_transient() => Err(error),
        Err(ClientError::Refused { problem, .. }) => Ok(Verdict::Problem(problem)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> ClientError {
        let problem = Problem {
            r#type: "/problems/build_finished".into(),
            title: "The build is finished".into(),
            status,
            detail: "it succeeded".into(),
            code: "build_finished".into(),
            errors: Vec::new(),
        };
        ClientError::Refused { problem: Box::new(problem), retry_after: None }
    }

    #[test]
    fn a_refusal_is_about_one_of_them_and_a_busy_server_about_all() {
        assert!(matches!(verdict::<()>(Err(refused(409))), Ok(Verdict::Problem(_))));
        assert!(matches!(verdict::<()>(Err(refused(503))), Err(ClientError::Refused { .. })));
        let lost = ClientError::Lost { server: String::new(), cause: String::new() };
        assert!(matches!(verdict::<()>(Err(lost)), Err(ClientError::Lost { .. })));
    }

    #[test]
    fn programs_find_result_or_problem_by_id() {
        let answer = |verdict| {
            serde_json::to_value(Answer { id: "a".to_owned(), verdict }).expect("it is JSON")
        };
        assert_eq!(answer(Verdict::Result(7)), serde_json::json!({"id": "a", "result": 7}));
        let verdict = verdict::<u8>(Err(refused(409))).expect("a verdict");
        assert_eq!(answer(verdict)["problem"]["code"], "build_finished");
    }

    #[tokio::test]
    async fn what_is_refused_for_one_does_not_keep_the_others() {
        let ask = async |number: &u16| match number {
            0 => Ok(()),
            status => Err(refused(*status)),
        };
        let (answers, gone) = collect(&[0, 409, 0], ask, |_, _| ()).await;
        assert_eq!((answers.len(), exit_of(&answers)), (3, Exit::Failed));
        assert!(gone.is_none());
        let (answers, gone) = collect(&[0, 503, 0], ask, |_, _| ()).await;
        assert_eq!((answers.len(), exit_of(&answers)), (1, Exit::Ok));
        assert!(gone.is_some_and(|error| error.is_transient()));
    }
}
