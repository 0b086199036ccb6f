// SPDX-License-Identifier: Apache-2.0

//! Requests for lists and for single builds.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::events;
use crate::http::Connection;
use crate::quantiles::Quantiles;
use crate::system::System;

/// The depth of the deep list, in pages.
const DEEP: u32 = 200;

/// Sends each kind of request a number of times.
pub(crate) async fn all(system: &System, times: u32) -> anyhow::Result<Value> {
    let mut connection = Connection::open(system.address()).await?;
    let mut report = Map::new();
    let list = "/v1/projects/team-5/builds";
    let tagged = events::image(5)?;
    let mut questions = vec![
        ("list".to_owned(), list.to_owned()),
        ("list_100".to_owned(), format!("{list}?limit=100")),
        ("image".to_owned(), format!("{list}?image={}", tagged.name())),
        ("image_and_tag".to_owned(), format!("{list}?image={tagged}")),
        ("no_such_image".to_owned(), format!("{list}?image={}/none", tagged.name())),
        ("image_and_state".to_owned(), format!("{list}?image={}&state=failed", tagged.name())),
        ("no_such_project".to_owned(), "/v1/projects/nobody/builds".to_owned()),
    ];
    for state in ["queued", "running", "publishing", "succeeded", "failed", "cancelled"] {
        questions.push((state.to_owned(), format!("{list}?state={state}")));
    }
    for (name, path) in questions {
        let mut taken = Vec::new();
        let mut found = 0;
        for _ in 0..times {
            let (time, answer) = ask(&mut connection, &path).await?;
            taken.push(time);
            found = answer["builds"].as_array().map_or(0, Vec::len);
        }
        report.insert(name, json!({"ms": Quantiles::of(taken), "found": found}));
    }
    report.insert("deep".to_owned(), deep(&mut connection, list).await?);
    let (opened, ids) = open(&mut connection, times).await?;
    report.insert("open".to_owned(), json!({"ms": opened, "found": ids}));
    Ok(Value::Object(report))
}

async fn ask(connection: &mut Connection, path: &str) -> anyhow::Result<(Duration, Value)> {
    let started = Instant::now();
    let (status, body) = connection.get(path).await?;
    let taken = started.elapsed();
    let text = String::from_utf8_lossy(&body);
    anyhow::ensure!(status == 200, "{path}: {status} {text}");
    Ok((taken, serde_json::from_slice(&body)?))
}

/// Follows cursors.
async fn deep(connection: &mut Connection, list: &str) -> anyhow::Result<Value> {
    let mut taken = Vec::new();
    let mut cursor = String::new();
    for _ in 0..DEEP {
        let (time, answer) = ask(connection, &format!("{list}?limit=100{cursor}")).await?;
        taken.push(time);
        let Some(next) = answer["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    Ok(json!({"pages": taken.len(), "ms": Quantiles::of(taken)}))
}

/// Opens builds from all over the history.
async fn open(connection: &mut Connection, times: u32) -> anyhow::Result<(Quantiles, usize)> {
    let list = "/v1/projects/team-5/builds?state=succeeded&limit=100";
    let (_, answer) = ask(connection, list).await?;
    let builds = answer["builds"].as_array().context("a list")?;
    let ids: Vec<&str> = builds.iter().filter_map(|build| build["id"].as_str()).collect();
    let mut taken = Vec::new();
    for id in ids.iter().cycle().take(usize::try_from(times)?) {
        let (time, _) = ask(connection, &format!("/v1/projects/team-5/builds/{id}")).await?;
        taken.push(time);
    }
    Ok((Quantiles::of(taken), ids.len()))
}
