// SPDX-License-Identifier: Apache-2.0

//! What all programs have in common: settings, defaults, exit codes, signals, the admin listener.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use slipway_tests::nats::{Nats, NatsOptions};
use slipway_tests::port::free_port;
use slipway_tests::process::{Process, command, program};
use slipway_tests::registry::Registry;
use slipway_tests::{Stack, WorkerOptions, artifacts, http, wait};

const PROGRAMS: [&str; 3] = ["slipway-dispatcher", "slipway-worker", "slipway"];

/// A program in an empty home, which is also its working directory.
fn at_home(name: &str, home: &Path) -> Command {
    let mut command = command(program(name));
    command.current_dir(home).env("HOME", home);
    for variable in ["STATE_DIRECTORY", "CACHE_DIRECTORY", "SOURCE_DATE_EPOCH"] {
        command.env_remove(variable);
    }
    for variable in ["XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        command.env_remove(variable);
    }
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatcher_and_worker_find_the_same_store_by_their_defaults() {
    let home = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(&elsewhere.path().join("registry")).await;
    let nats = Nats::start(NatsOptions::one(elsewhere.path())).await;
    let listen = format!("127.0.0.1:{}", free_port());
    // Nothing but the ports, which other tests of this machine use at the same time.
    let start = |name: &str| {
        let mut command = at_home(name, home.path());
        command.env("SLIPWAY_NATS_URL", nats.url()).env("SLIPWAY_LISTEN", &listen);
        Process::start(name, command, &elsewhere.path().join(format!("{name}.log")))
    };
    let _dispatcher = start("slipway-dispatcher");
    let _worker = start("slipway-worker");
    let ready = format!("http://{listen}/readyz");
    let client = http::client();
    wait::until("the dispatcher", wait::SOON, || async {
        client.get(&ready).send().await.ok()?.status().is_success().then_some(())
    })
    .await;
    let tool = elsewhere.path().join("tool");
    std::fs::write(&tool, artifacts::elf(62, "by default")).expect("it can be written");
    let image = format!("{}/by/default:1", registry.address);
    let mut build = at_home("slipway", home.path());
    build.env("SLIPWAY_SERVER", format!("http://{listen}")).arg("build").arg(&tool);
    build.args(["--image", &image, "--environment", "scratch"]);
    let built = tokio::task::spawn_blocking(move || build.output().expect("it runs"));
    let built = built.await.expect("it does not panic");
    assert_eq!(built.status.code(), Some(0), "{}", errors(&built));
    let store = home.path().join(".local/share/slipway/artifacts");
    assert!(store.is_dir(), "the store is not at {}", store.display());
}

#[test]
fn every_mistake_is_reported_at_once_with_where_it_came_from() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("config.toml");
    std::fs::write(
        &file,
        "slots = 0\nreplicas = 2\nproject = 'A'\nqueue_bytes = 1\nnonsense = 1\n",
    )
    .expect("it can be written");
    let expected: [&[&str]; 3] = [
        &["replicas (from ", "config.toml:2", "queue_bytes (from ", "nonsense (from "],
        &["slots (from ", "config.toml:1", "replicas (from ", "nonsense (from "],
        &["slots (from ", "project (from ", "config.toml:3", "nonsense (from "],
    ];
    for (name, expected) in PROGRAMS.into_iter().zip(expected) {
        let mut command = at_home(name, home.path());
        command.arg("--config").arg(&file).arg("--check-config");
        command.env("SLIPWAY_LOG_FORMAT", "yaml").env("SLIPWAY_OUTPUT", "yaml");
        let output = command.output().expect("it runs");
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {errors}");
        for part in expected {
            assert!(errors.contains(part), "{name} does not say `{part}`: {errors}");
        }
        let variable = if name == "slipway" { "SLIPWAY_OUTPUT" } else { "SLIPWAY_LOG_FORMAT" };
        assert!(errors.contains(&format!("(from {variable}): `yaml`")), "{name}: {errors}");
    }
}

#[test]
fn the_printed_configuration_hides_secrets_and_gives_itself() {
    let home = tempfile::tempdir().expect("a directory");
    for name in PROGRAMS {
        let print = |file: Option<&Path>| {
            let mut command = at_home(name, home.path());
            command.arg("--check-config");
            match file {
                Some(file) => command.arg("--config").arg(file),
                None => command
                    .env("SLIPWAY_NATS_USER", "ci")
                    .env("SLIPWAY_NATS_PASSWORD", "hunter2")
                    .env("SLIPWAY_TOKEN", "hunter2")
                    .env("SLIPWAY_SERVER", "http://ci.example/")
                    .env("SLIPWAY_PREFIX", "other"),
            };
            let output = command.output().expect("it runs");
            assert_eq!(output.status.code(), Some(0), "{name}: {}", errors(&output));
            String::from_utf8(output.stdout).expect("it is UTF-8")
        };
        let printed = print(None);
        assert!(!printed.contains("hunter2") && printed.contains("redacted"), "{name}: {printed}");
        let file = home.path().join(format!("{name}.toml"));
        std::fs::write(&file, &printed).expect("it can be written");
        assert_eq!(print(Some(&file)), printed, "{name}");
    }
}

#[test]
fn a_reader_that_closed_its_pipe_is_no_panic() {
    let home = tempfile::tempdir().expect("a directory");
    for name in PROGRAMS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = at_home(name, home.path());
        let output = command.arg("--check-config").stdout(writer).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{name}: {}", errors(&output));
        assert!(!errors(&output).contains("panicked"), "{name}: {}", errors(&output));
    }
}

#[test]
fn the_client_reads_the_file_in_the_users_configuration_directory() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join(".config/slipway");
    std::fs::create_dir_all(&directory).expect("it can be made");
    std::fs::write(directory.join("config.toml"), "project = 'team'").expect("it can be written");
    let printed = at_home("slipway", home.path()).arg("--check-config").output().expect("it runs");
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.contains("project = \"team\""), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_program_that_is_stopping() {
    let mut stack = Stack::start().await;
    let address = stack.url("").replace("http://", "");
    let mut upload = TcpStream::connect(&address).expect("it listens");
    // An upload that does not go on, which a graceful stop waits for.
    let head = "PUT /v1/projects/team/artifacts?filename=a.jar HTTP/1.1\r\nhost: x\r\n\
                content-length: 1000000\r\n\r\nPK";
    upload.write_all(head.as_bytes()).expect("it reads");
    wait::until("the upload to begin", wait::SOON, || async {
        let uploads = std::fs::read_dir(stack.store().join("uploads")).ok()?.count();
        (uploads > 0).then_some(())
    })
    .await;
    stack.dispatcher.signal("TERM");
    wait::until("the stop to begin", wait::SOON, || async {
        stack.dispatcher.output().contains("a second signal ends").then_some(())
    })
    .await;
    assert!(stack.dispatcher.is_running());
    stack.dispatcher.signal("INT");
    assert_eq!(stack.dispatcher.exit(wait::SOON).await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_it_is() {
    let mut stack = Stack::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    stack.add_worker(WorkerOptions {
        id: "worker-1",
        arguments: vec![format!("--admin-listen={admin}"), "--slots=3".to_owned()],
        ..WorkerOptions::default()
    });
    let page = async |path: &str| {
        let answer = stack.client.get(format!("http://{admin}{path}")).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().await.ok()?))
    };
    wait::until("the worker to be ready", wait::SOON, || async {
        page("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    let (_, alive) = page("/healthz").await.expect("it answers");
    let alive: Value = serde_json::from_str(&alive).expect("JSON");
    assert_eq!(alive, json!({"status": "alive"}));
    let request = stack.tool("a metric", &stack.image("a/metric:1")).await;
    let id = stack.submit(&request).await;
    stack.finished(&id).await;
    let (_, metrics) = page("/metrics").await.expect("it answers");
    for line in [
        "slipway_worker_slots 3",
        "slipway_worker_pulled_total 1",
        "slipway_worker_attempts_total{outcome=\"succeeded\"} 1",
        "slipway_worker_attempts_total{outcome=\"failed\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing: {metrics}");
    }
    stack.nats.kill(0);
    wait::until("the worker to miss NATS", wait::LATER, || async {
        page("/readyz").await.filter(|(status, text)| *status == 503 && text.contains("NATS"))
    })
    .await;
}
