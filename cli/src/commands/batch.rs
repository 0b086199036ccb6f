// SPDX-License-Identifier: Apache-2.0

//! Submits the builds of a file, one request on each line (JSON Lines): the format that a CI job
//! that fans out writes, and that `jq -c` prints.

pub(crate) mod error;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};
use slipway_fault::chain;
use slipway_proto::api::{BatchResult, Problem};
use slipway_proto::{BuildId, Digest};

use super::build;
use crate::exit::Error;
use crate::output::Output;
use slipway_client::{Client, ClientError, describe};
use slipway_service::Exit;

pub use error::{BatchError, LineError};

/// A line of the file: the request, or why it is none.
#[derive(Debug)]
struct Line {
    /// Its place in the file, counted from 1.
    number: usize,
    request: Result<Map<String, Value>, Box<Problem>>,
}

/// The result of a line.
#[derive(Debug, Serialize)]
struct Answer {
    line: usize,
    #[serde(flatten)]
    result: BatchResult,
}

/// Runs `slipway batch`.
pub(super) async fn run(client: &Client, path: &Path, output: &Output) -> Result<Exit, Error> {
    let read = path.to_owned();
    let text = tokio::task::spawn_blocking(move || read_text(&read)).await;
    let text = text.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    let text = text.map_err(|source| BatchError::Read { path: path.to_owned(), source })?;
    let mut lines = parse(&text)?;
    upload(client, &mut lines, output).await?;
    let requests = lines.iter().filter_map(|line| line.request.as_ref().ok());
    let builds: Vec<Value> = requests.map(|fields| Value::Object(fields.clone())).collect();
    let (results, gone) = match client.submit_batch(&builds).await {
        Ok(results) => (results, None),
        Err((results, error)) => (results, Some(error)),
    };
    let answered = results.len();
    let answers = answers(lines, results);
    tell(&answers, output);
    if let Some(error) = gone {
        let left = builds.len() - answered;
        output.note(&format!("{left} of {} builds were not answered", builds.len()));
        return Err(error.into());
    }
    let refused = answers.iter().any(|answer| answer.result.build.is_none());
    Ok(if refused { Exit::Failed } else { Exit::Ok })
}

fn read_text(path: &Path) -> std::io::Result<String> {
    if path.as_os_str() != "-" {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the requests, and gives a key to those without one, so that each becomes one build however
/// often it is sent. A line that is no request is refused by itself, unless all are.
fn parse(text: &str) -> Result<Vec<Line>, BatchError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(index, line)| (index + 1, request(line)));
    let read: Vec<(usize, Result<_, LineError>)> = read.collect();
    if read.iter().all(|(_, request)| request.is_err()) {
        let first = read.into_iter().find_map(|(line, request)| Some((line, request.err()?)));
        let first = first.map(|(line, error)| BatchError::NoRequest { line, error });
        return Err(first.unwrap_or(BatchError::Empty));
    }
    let line = |(number, request): (usize, Result<_, LineError>)| Line {
        number,
        request: request.map_err(|error| refusal("malformed_line", 400, &chain(&error))),
    };
    Ok(read.into_iter().map(line).collect())
}

fn request(line: &str) -> Result<Map<String, Value>, LineError> {
    let document = serde_json::from_str(line).map_err(LineError::NotJson)?;
    let Value::Object(mut fields) = document else { return Err(LineError::NoObject) };
    let twice = fields.contains_key("artifact");
    if fields.get("file").is_some_and(|file| twice || !file.is_string()) {
        return Err(LineError::File);
    }
    let key = fields.entry("idempotency_key").or_insert(Value::Null);
    if key.is_null() {
        *key = BuildId::fresh().to_string().into();
    }
    Ok(fields)
}

/// What a line gets that the server does not see.
fn refusal(code: &str, status: u16, detail: &str) -> Box<Problem> {
    Box::new(Problem {
        r#type: format!("/problems/{code}"),
        title: "The line cannot be submitted".to_owned(),
        status,
        detail: detail.to_owned(),
        code: code.to_owned(),
        errors: Vec::new(),
    })
}

/// Uploads each file that the lines name once, and puts its digest in its place. A file that cannot
/// be read, or is refused, concerns its lines alone.
async fn upload(client: &Client, lines: &mut [Line], output: &Output) -> Result<(), ClientError> {
    let mut uploaded: HashMap<String, Result<Value, Box<Problem>>> = HashMap::new();
    for line in lines {
        let Ok(fields) = &mut line.request else { continue };
        let Some(Value::String(file)) = fields.remove("file") else { continue };
        let path = Path::new(&file);
        let name = crate::args::name_of(path);
        let digest = match uploaded.get(&file) {
            Some(known) => known.clone(),
            None => verdict(build::upload(client, path, &name, output).await)?,
        };
        match &digest {
            Ok(digest) => {
                fields.insert("artifact".to_owned(), digest.clone());
                fields.entry("filename").or_insert_with(|| name.into());
            }
            Err(problem) => {
                let detail = format!("{file}: {}", problem.detail);
                line.request = Err(Box::new(Problem { detail, ..(**problem).clone() }));
            }
        }
        uploaded.insert(file, digest);
    }
    Ok(())
}

/// Separates what is wrong with one file from an error that the next would get, too.
fn verdict(
    uploaded: Result<Digest, ClientError>,
) -> Result<Result<Value, Box<Problem>>, ClientError> {
    match uploaded {
        Ok(digest) => Ok(Ok(digest.to_string().into())),
        Err(ClientError::ReadArtifact { source, .. }) => Ok(Err(refusal(
            "unreadable_artifact",
            400,
            &format!("cannot be read: {}", chain(&source)),
        ))),
        Err(error) if error.is_transient() => Err(error),
        Err(ClientError::Refused { problem, .. }) => Ok(Err(problem)),
        Err(error) => Err(error),
    }
}

/// Puts the server's results to the lines that it got, in the order of the file. Lines behind those
/// that it answered have none.
fn answers(lines: Vec<Line>, results: Vec<BatchResult>) -> Vec<Answer> {
    let mut results = results.into_iter();
    let answered = lines.into_iter().map(|Line { number, request }| {
        let result = match request {
            Ok(_) => results.next()?,
            Err(problem) => BatchResult {
                status: problem.status,
                location: None,
                build: None,
                problem: Some(*problem),
                retry_after_s: None,
            },
        };
        Some(Answer { line: number, result })
    });
    answered.flatten().collect()
}

/// Prints the builds. Refused ones go to stderr with their lines.
fn tell(answers: &[Answer], output: &Output) {
    for Answer { line, result } in answers {
        match (&result.build, &result.problem) {
            (Some(build), _) if !output.is_json() => {
                output.result(&format!("{} {}", build.id, build.target));
            }
            (None, Some(problem)) => {
                output.note(&format!("error: line {line}: {}", describe(problem)));
            }
            _ => {}
        }
    }
    if output.is_json() {
        output.document(&answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &Line) -> &Map<String, Value> {
        line.request.as_ref().expect("it is a request")
    }

    #[test]
    fn each_line_is_a_request_with_a_key() {
        let lines = parse("{\"image\":\"a\"}\n\n {\"idempotency_key\":\"k\"}\n").expect("it reads");
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3]);
        assert_eq!(fields(&lines[0])["idempotency_key"].as_str().map(str::len), Some(36));
        assert_eq!(fields(&lines[1])["idempotency_key"], "k");
    }

    #[test]
    fn a_line_that_is_no_request_is_named_and_keeps_no_other() {
        let lines = parse("{}\n{\n[]\n{\"file\":\"a\",\"artifact\":\"b\"}").expect("one is good");
        let told: Vec<&str> = lines
            .iter()
            .filter_map(|line| Some(line.request.as_ref().err()?.detail.as_str()))
            .collect();
        assert!(told[0].starts_with("is not JSON"), "{told:?}");
        assert!(told[1].starts_with("is not a JSON object"), "{told:?}");
        assert!(told[2].starts_with("`file`"), "{told:?}");
        let answers = answers(lines, Vec::new());
        let lines: Vec<usize> = answers.iter().map(|answer| answer.line).collect();
        assert_eq!(lines, [2, 3, 4], "the first was not answered");
    }

    #[test]
    fn a_file_without_a_request_is_a_matter_of_usage() {
        let told = |text: &str| parse(text).expect_err("it is refused").to_string();
        assert!(told("nonsense").contains("line 1: is not JSON"));
        assert!(told("\n").starts_with("there is no build"));
    }
}
