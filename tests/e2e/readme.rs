// SPDX-License-Identifier: Apache-2.0

//! Each command line of the README does what it says.

use std::process::{Command, Output, Stdio};

use serde_json::json;
use slipway_tests::process::repository;
use slipway_tests::{Stack, WorkerOptions, artifacts, wait};

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).expect("there is a README")
}

/// The lines of its blocks of code, without comments.
fn lines(readme: &str) -> Vec<String> {
    let blocks = readme.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    let bare = lines.map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned());
    bare.filter(|line| !line.is_empty()).collect()
}

/// A stack with the files and base images that the README's lines name.
async fn stack() -> Stack {
    let mut stack = Stack::start().await;
    stack.add_worker(WorkerOptions { id: "worker-1", ..WorkerOptions::default() });
    let temurin = "docker.io/library/eclipse-temurin";
    stack.registry.put_base(temurin, "17-jre", json!({})).await;
    let tomcat = "docker.io/library/tomcat";
    stack.registry.put_base(tomcat, "10.1-jre17-temurin", json!({})).await;
    let files = [
        ("app.jar", artifacts::jar("app")),
        ("api.jar", artifacts::jar("api")),
        ("web.war", artifacts::war()),
        ("tool", artifacts::elf(62, "readme")),
    ];
    for (name, bytes) in files {
        std::fs::write(stack.directory.path().join(name), bytes).expect("it is written");
    }
    stack
}

/// Runs a line in a shell, with the test's registry in place of the README's.
fn shell(stack: &Stack, line: &str) -> Command {
    let registry = &stack.registry.address;
    let line = line.replace("registry.example", registry).replace("target/release/", "");
    let cli = stack.cli_command();
    let directory = std::path::Path::new(cli.get_program()).parent().expect("it has one");
    let mut shell = Command::new("bash");
    for (name, value) in cli.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", directory.display()));
    shell.env("SLIPWAY_MIRRORS", format!("docker.io={registry}/docker.io"));
    shell.args(["-o", "pipefail", "-c", &line]).current_dir(stack.directory.path());
    shell.stdin(Stdio::null());
    shell
}

async fn run(stack: &Stack, line: &str) -> Output {
    let mut shell = shell(stack, line);
    let output = tokio::task::spawn_blocking(move || shell.output().expect("bash runs"));
    output.await.expect("no panic")
}

/// Runs a line that does not end by itself until it has printed something.
async fn run_until_it_prints(stack: &Stack, line: &str) {
    let log = stack.directory.path().join("endless.log");
    let mut endless = shell(stack, &format!("exec {line}"));
    endless.stdout(std::fs::File::create(&log).expect("it is made"));
    let mut endless = endless.spawn().expect("bash runs");
    let mut number = 0;
    wait::until(line, wait::SOON, || {
        number += 1;
        let (log, image) = (log.clone(), stack.image(&format!("endless/tool:{number}")));
        async move {
            // Events that are printed are of builds that begin from now on.
            stack.submit(&stack.tool("endless", &image).await).await;
            (std::fs::metadata(log).expect("it is there").len() > 0).then_some(())
        }
    })
    .await;
    endless.kill().expect("it is killed");
    endless.wait().expect("it is reaped");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_runs() {
    let (stack, readme) = (stack().await, readme());
    let makefile = std::fs::read_to_string(repository().join("Makefile")).expect("it reads");
    let mut seen = 0;
    for line in lines(&readme) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["make", target, ..] => {
                let rule = format!("\n{target}:");
                assert!(makefile.contains(&rule), "there is no target {target}");
            }
            ["target/release/slipway", "dev", ..] => {
                let checked = run(&stack, &format!("{line} --check-config")).await;
                assert!(checked.status.success(), "{line}: {checked:?}");
            }
            ["slipway", "events", "-f"] => run_until_it_prints(&stack, &line).await,
            ["slipway" | "cat" | "jq", ..] => {
                let output = run(&stack, &line).await;
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{line}: {errors}");
            }
            ["curl", "-N", url] => {
                let path = url.strip_prefix("http://127.0.0.1:7070").expect("the default address");
                let answer = stack.client.get(stack.url(path)).send().await.expect("an answer");
                assert_eq!(answer.status().as_u16(), 200, "{line}");
            }
            ["nats", "subscribe", subject] => {
                let subject = subject.trim_matches('\'').replace("default", "team");
                let client = async_nats::connect(stack.nats.url()).await.expect("NATS is there");
                let mut events = client.subscribe(subject).await.expect("it subscribes");
                client.flush().await.expect("it is sent");
                stack.submit(&stack.tool("nats", &stack.image("nats/tool:1")).await).await;
                let event = tokio::time::timeout(wait::SOON, futures::StreamExt::next(&mut events));
                assert!(event.await.expect("it arrives").is_some());
            }
            [first, ..] if first.starts_with('{') => {
                let line = line.replace("registry.example", &stack.registry.address);
                std::fs::write(stack.directory.path().join("line"), line).expect("it is written");
                let output = run(&stack, "slipway batch line").await;
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{errors}");
            }
            // The picture.
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen > 15, "only {seen} lines were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_table_is_one() {
    let (stack, readme) = (stack().await, readme());
    let request = stack.tool("table", &stack.image("table/tool:1")).await;
    let id = stack.submit(&request).await;
    let rows = readme.lines().filter(|line| line.starts_with("| `slipway "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let spans = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut group = String::new();
    let mut seen = 0;
    for span in spans {
        let bare = span.replace(['[', ']'], "").replace("...", "");
        let mut words = bare.split_whitespace().peekable();
        if words.peek() == Some(&"slipway") {
            words.next();
            group = words.peek().map_or_else(String::new, |word| (*word).to_owned());
        }
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        // `dead list`, `show ID`: commands below the same word.
        if group == "dead" && words[0] != "dead" {
            words.insert(0, group.clone());
        }
        for word in &mut words {
            match word.as_str() {
                "ID" if group == "workers" => *word = "worker-9".to_owned(),
                "ID" => *word = id.clone(),
                "R" => *word = stack.image("table/app:1"),
                "SHELL" => *word = "bash".to_owned(),
                "DIRECTORY" => *word = "man".to_owned(),
                "FILE" if words_are_batch(&group) => *word = "none.jsonl".to_owned(),
                "FILE" => *word = "tool".to_owned(),
                "-f" | "--follow" if group != "logs" && group != "build" => *word = String::new(),
                _ => {}
            }
        }
        words.retain(|word| !word.is_empty());
        if words[0] == "dev" {
            words.push("--check-config".to_owned());
        }
        let line = format!("slipway {}", words.join(" "));
        let output = run(&stack, &line).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_usage = output.status.code() == Some(2) && errors.contains("Usage:");
        assert!(!is_usage, "{line}: {errors}");
        seen += 1;
    }
    assert!(seen > 15, "only {seen} commands were found");
}

fn words_are_batch(group: &str) -> bool {
    group == "batch"
}
