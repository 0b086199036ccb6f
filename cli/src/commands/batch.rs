// SPDX-License-Identifier: Apache-2.0

//! Submits the builds of a file, one request on each line (JSON Lines): the format that a CI job
//! that fans out writes, and that `jq -c` prints.

pub(crate) mod error;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};
use slipway_proto::BuildId;
use slipway_proto::api::BatchResult;

use super::build;
use crate::exit::Error;
use crate::output::Output;
use slipway_client::{Client, ClientError, describe};
use slipway_service::Exit;

pub use error::BatchError;

/// A request with the number of its line.
#[derive(Debug)]
struct Line {
    number: usize,
    fields: Map<String, Value>,
}

/// The result of a line.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    line: usize,
    #[serde(flatten)]
    result: &'a BatchResult,
}

/// Runs `slipway batch`.
pub(super) async fn run(client: &Client, path: &Path, output: &Output) -> Result<Exit, Error> {
    let read = path.to_owned();
    let text = tokio::task::spawn_blocking(move || read_text(&read)).await;
    let text = text.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    let text = text.map_err(|source| BatchError::Read { path: path.to_owned(), source })?;
    let mut lines = parse(&text)?;
    upload(client, &mut lines, output).await?;
    let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
    let builds: Vec<Value> = lines.into_iter().map(|line| Value::Object(line.fields)).collect();
    let (results, gone) = match client.submit_batch(&builds).await {
        Ok(results) => (results, None),
        Err((results, error)) => (results, Some(error)),
    };
    tell(&numbers, &results, output);
    if let Some(error) = gone {
        let left = builds.len() - results.len();
        output.note(&format!("{left} of {} builds were not answered", builds.len()));
        return Err(error.into());
    }
    let refused = results.iter().any(|result| result.build.is_none());
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
/// often it is sent.
fn parse(text: &str) -> Result<Vec<Line>, BatchError> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        let document = serde_json::from_str(line)
            .map_err(|source| BatchError::Line { line: number, source })?;
        let Value::Object(mut fields) = document else {
            return Err(BatchError::NoObject(number));
        };
        let twice = fields.contains_key("artifact");
        if fields.get("file").is_some_and(|file| twice || !file.is_string()) {
            return Err(BatchError::File(number));
        }
        let key = fields.entry("idempotency_key").or_insert(Value::Null);
        if key.is_null() {
            *key = BuildId::fresh().to_string().into();
        }
        lines.push(Line { number, fields });
    }
    if lines.is_empty() {
        return Err(BatchError::Empty);
    }
    Ok(lines)
}

/// Uploads each file that the lines name once, and puts its digest in its place.
async fn upload(client: &Client, lines: &mut [Line], output: &Output) -> Result<(), ClientError> {
    let mut uploaded: HashMap<String, Value> = HashMap::new();
    for Line { fields, .. } in lines {
        let Some(Value::String(file)) = fields.remove("file") else { continue };
        let path = Path::new(&file);
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let digest = match uploaded.get(&file) {
            Some(digest) => digest.clone(),
            None => build::upload(client, path, &name, output).await?.to_string().into(),
        };
        fields.insert("artifact".to_owned(), digest.clone());
        fields.entry("filename").or_insert_with(|| name.into());
        uploaded.insert(file, digest);
    }
    Ok(())
}

/// Prints the builds. Refused ones go to stderr with their lines.
fn tell(numbers: &[usize], results: &[BatchResult], output: &Output) {
    let answers: Vec<Answer<'_>> =
        numbers.iter().zip(results).map(|(line, result)| Answer { line: *line, result }).collect();
    for Answer { line, result } in &answers {
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

    #[test]
    fn each_line_is_a_request_with_a_key() {
        let lines = parse("{\"image\":\"a\"}\n\n {\"idempotency_key\":\"k\"}\n").expect("it reads");
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3]);
        assert_eq!(lines[0].fields["idempotency_key"].as_str().map(str::len), Some(36));
        assert_eq!(lines[1].fields["idempotency_key"], "k");
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        let told = |text: &str| parse(text).expect_err("it is refused").to_string();
        assert!(told("{}\n{").starts_with("line 2 is not JSON"));
        assert!(told("[]").starts_with("line 1 is not a JSON object"));
        assert!(told("{\"file\":\"a\",\"artifact\":\"b\"}").starts_with("line 1: `file`"));
        assert!(told("\n").starts_with("there is no build"));
    }
}
