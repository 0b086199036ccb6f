// SPDX-License-Identifier: Apache-2.0

//! What somebody types who uses the client for the first time.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use slipway_tests::{Stack, artifacts, wait};

fn tool(stack: &Stack, name: &str) -> String {
    let path = stack.directory.path().join(name);
    std::fs::write(&path, artifacts::elf(62, name)).expect("it is written");
    path.to_str().expect("UTF-8").to_owned()
}

/// Runs the client with bytes on its standard input.
async fn with_input(stack: &Stack, arguments: &[&str], input: Vec<u8>) -> Output {
    let mut cli = stack.cli_command();
    cli.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut cli = cli.spawn().expect("it runs");
    let mut stdin = cli.stdin.take().expect("a pipe");
    let running = tokio::task::spawn_blocking(move || {
        // A client that refuses does not read to the end.
        let _unread = stdin.write_all(&input);
        drop(stdin);
        cli.wait_with_output().expect("it ends")
    });
    running.await.expect("no panic")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_comes_from_standard_input() {
    let stack = Stack::with_worker().await;
    let image = stack.image("stdin/tool:1");
    let elf = || artifacts::elf(62, "stdin");
    let options = ["--image", &image, "--environment", "scratch"];
    let build = [&["build", "-", "--name", "tool"][..], &options].concat();
    let built = with_input(&stack, &build, elf()).await;
    assert_eq!(built.status.code(), Some(0), "{}", errors(&built));
    let submitted = [&["submit", "-", "--name", "tool"][..], &options].concat();
    let submitted = with_input(&stack, &submitted, elf()).await;
    let id = text(&submitted).trim().to_owned();
    let done = stack.finished(&id).await;
    assert_eq!(done["request"]["artifact"]["filename"], "tool", "{done}");
    let local = [&build[..], &["--local"]].concat();
    let local = with_input(&stack, &local, elf()).await;
    assert_eq!(local.status.code(), Some(0), "{}", errors(&local));

    let nameless = [&["build", "-"][..], &options].concat();
    let nameless = with_input(&stack, &nameless, elf()).await;
    assert_eq!(nameless.status.code(), Some(2));
    assert!(errors(&nameless).contains("--name"), "{}", errors(&nameless));
    let empty = with_input(&stack, &build, Vec::new()).await;
    assert_eq!(empty.status.code(), Some(2));
    assert!(errors(&empty).contains("standard input is empty"), "{}", errors(&empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_into_pipes_and_devices_and_replaces_none() {
    let stack = Stack::start().await;
    let tool = tool(&stack, "tool");
    let options = ["build", &tool, "--image", "app:1.4", "--environment", "scratch"];
    for target in ["docker-archive:-", "docker-archive:/dev/stdout"] {
        let output = stack.cli(&[&options[..], &["--to", target]].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        assert!(errors(&output).contains("succeeded"), "the result is on stderr");
        let archive = stack.directory.path().join("piped.tar");
        std::fs::write(&archive, &output.stdout).expect("it is written");
        let listed = std::process::Command::new("skopeo")
            .args(["inspect", "--raw", &format!("docker-archive:{}", archive.display())])
            .output()
            .expect("skopeo runs");
        assert!(listed.status.success(), "{}", errors(&listed));
    }
    let pipe = stack.directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let reading = pipe.clone();
    let reader = tokio::task::spawn_blocking(move || std::fs::read(reading).expect("it reads"));
    let target = format!("docker-archive:{}", pipe.display());
    let output = stack.cli(&[&options[..], &["--to", &target]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(reader.await.expect("no panic").len() > 1000);
    let kind = std::fs::metadata(&pipe).expect("it is there").file_type();
    assert!(kind.is_fifo(), "it is still a pipe");

    let full = stack.cli(&[&options[..], &["--to", "docker-archive:/dev/full"]].concat()).await;
    assert_eq!(full.status.code(), Some(1), "{}", errors(&full));
    let kind = std::fs::metadata("/dev/full").expect("it is there").file_type();
    assert!(kind.is_char_device(), "it is still a device");
    assert!(text(&full).contains("No space left on device"), "{}", text(&full));
    assert!(!text(&full).contains("os error"), "{}", text(&full));

    let directory = stack.directory.path().display().to_string();
    for (target, word) in [
        (format!("docker-archive:{directory}"), "directory"),
        (format!("docker-archive:{directory}/none/x.tar"), "does not exist"),
        (format!("oci:{tool}"), "directory"),
        ("oci:-".to_owned(), "directory"),
    ] {
        let refused = stack.cli(&[&options[..], &["--to", &target]].concat()).await;
        assert_eq!(refused.status.code(), Some(2), "{target}: {}", errors(&refused));
        assert!(errors(&refused).contains(word), "{target}: {}", errors(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_for_others_has_the_mode_that_the_umask_says() {
    let stack = Stack::start().await;
    let tool = tool(&stack, "tool");
    let cli = stack.cli_command();
    let program = cli.get_program().to_str().expect("UTF-8");
    let directory = stack.directory.path();
    for (mask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        let (layout, archive) = (format!("layout-{mask}"), format!("{mask}.tar"));
        let build = |to: &str| {
            format!("{program} build {tool} --image app:1 --environment scratch --to {to}")
        };
        let script = format!(
            "umask {mask}; {} && {}",
            build(&format!("oci:{layout}")),
            build(&format!("docker-archive:{archive}"))
        );
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(directory).env("HOME", directory);
        let output = shell.output().expect("sh runs");
        assert!(output.status.success(), "{}", errors(&output));
        for file in [archive, format!("{layout}/index.json"), format!("{layout}/oci-layout")] {
            let found = std::fs::metadata(directory.join(&file)).expect(&file);
            assert_eq!(found.permissions().mode() & 0o777, mode, "{file}");
        }
        let blobs = std::fs::read_dir(directory.join(layout).join("blobs/sha256"));
        for blob in blobs.expect("there are blobs").flatten() {
            assert_eq!(blob.metadata().expect("it is there").permissions().mode() & 0o777, mode);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_name_is_fine_where_nothing_is_pushed() {
    let stack = Stack::start().await;
    let tool = tool(&stack, "tool");
    let archive = stack.directory.path().join("app.tar").display().to_string();
    let to = format!("docker-archive:{archive}");
    for (image, shown) in [
        ("app:1.4", "app:1.4"),
        ("app", "app:latest"),
        ("team/app:1", "team/app:1"),
        ("r.example/app:1", "r.example/app:1"),
        ("docker.io/library/app:1", "app:1"),
    ] {
        let build = ["build", &tool, "--image", image, "--environment", "scratch", "--to", &to];
        let output = stack.cli(&build).await;
        assert_eq!(output.status.code(), Some(0), "{image}: {}", errors(&output));
        let listed = std::process::Command::new("tar")
            .args(["-xOf", &archive, "manifest.json"])
            .output()
            .expect("tar runs");
        let manifest: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"], json!([shown]), "{image}");
    }
    for image in ["App:1", "a b", "app:", "app@sha256:1", ""] {
        let build = ["build", &tool, "--image", image, "--environment", "scratch", "--to", &to];
        let output = stack.cli(&build).await;
        assert_eq!(output.status.code(), Some(1), "{image}: {}", errors(&output));
        assert!(errors(&output).contains("image"), "{image}: {}", errors(&output));
    }
    let build = ["build", &tool, "--image", "app:1", "--environment", "scratch", "--local"];
    let pushed = stack.cli(&build).await;
    assert_eq!(pushed.status.code(), Some(1));
    assert!(errors(&pushed).contains("name the registry first"), "{}", errors(&pushed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_told_before_the_artifact_is_uploaded() {
    let stack = Stack::start().await;
    let tool = tool(&stack, "tool");
    let build = ["build", &tool, "--image", "nonsense", "--tag", "a b", "--port", "http"];
    let output = stack.cli(&build).await;
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let told = errors(&output);
    for field in ["image: ", "additional_tags.0: ", "ports.0: "] {
        assert!(told.contains(&format!("\n  {field}")), "{told}");
    }
    assert!(!told.contains("uploading") && !told.contains("`errors`"), "{told}");
    assert_eq!(std::fs::read_dir(stack.store().join("blobs/sha256")).expect("it lists").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_document_for_programs_and_a_line_for_people() {
    let stack = Stack::start().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let output = stack.cli(&["get", unknown, "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let problem: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&problem["code"], &problem["status"]), (&json!("build_not_found"), &json!(404)));
    let told = errors(&output);
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(told.matches("no build").count(), 1, "once: {told}");
    let script = stack.directory.path().join("script.sh");
    std::fs::write(&script, "#!/bin/sh\n").expect("it is written");
    let script = script.to_str().expect("UTF-8");
    let image = stack.image("json/x:1");
    for command in [
        &["build", script, "--image", &image][..],
        &["build", script, "--image", &image, "--local"],
        &["submit", "none.jar", "--image", &image],
        &["build", "/", "--image", &image],
        &["--server", "http://127.0.0.1:9", "list"],
    ] {
        let output = stack.cli(&[command, &["--output", "json"]].concat()).await;
        let problem: Value = serde_json::from_slice(&output.stdout).expect("one document");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(problem["code"].is_string() && !detail.is_empty(), "{command:?}: {problem}");
        assert!(!errors(&output).contains("os error"), "{command:?}: {}", errors(&output));
        let told = errors(&output);
        assert!(told.lines().any(|line| line.starts_with("error: ")), "{command:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_a_batch_is_taken_or_refused_by_itself() {
    let stack = Stack::with_worker().await;
    let directory = stack.directory.path();
    let (one, two) = (tool(&stack, "one"), tool(&stack, "two with spaces"));
    std::fs::write(directory.join("script.sh"), "#!/bin/sh\n").expect("it is written");
    std::fs::write(directory.join("empty.jar"), "").expect("it is written");
    let file = |name: &str| directory.join(name).display().to_string();
    let line = |path: &str, number: u32| {
        let image = stack.image(&format!("lines/tool:{number}"));
        json!({"file": path, "image": image, "environment": "scratch"}).to_string()
    };
    let lines = [
        line(&one, 1),
        line(&file("missing.jar"), 2),
        line(&file("script.sh"), 3),
        "not JSON".to_owned(),
        line(&file("empty.jar"), 5),
        line(&directory.display().to_string(), 6),
        line(&two, 7),
    ];
    let output = with_input(&stack, &["batch", "-"], lines.join("\n").into_bytes()).await;
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let ids: Vec<String> = text(&output)
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    assert_eq!(ids.len(), 2, "{}", text(&output));
    for id in ids {
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    let told = errors(&output);
    for number in [2, 3, 4, 5, 6] {
        assert_eq!(told.matches(&format!("line {number}")).count(), 1, "{number}: {told}");
    }
    assert!(!told.contains("os error"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_named_by_the_first_characters_of_its_id() {
    let stack = Stack::with_worker().await;
    let mut ids = Vec::new();
    for number in 0..2 {
        let image = stack.image(&format!("short/tool:{number}"));
        ids.push(stack.submit(&stack.tool("short", &image).await).await);
    }
    for id in &ids {
        stack.finished(id).await;
    }
    let listed = async |id: &str| {
        let (_, list) = stack.get(&format!("/v1/projects/team/builds?id={id}")).await;
        list["builds"].as_array().map(Vec::len)
    };
    wait::until("both to be listed", wait::SOON, || async {
        (listed(&ids[0]).await == Some(1) && listed(&ids[1]).await == Some(1)).then_some(())
    })
    .await;
    let common = ids[0].bytes().zip(ids[1].bytes()).take_while(|(one, two)| one == two).count();
    let unique = ids[0][..=common].trim_end_matches('-').to_owned();
    for arguments in [&["get", &unique][..], &["logs", &unique], &["events", "--build", &unique]] {
        let output = stack.cli(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", errors(&output));
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let retried = stack.cli(&["retry", &unique]).await;
    assert_eq!(retried.status.code(), Some(0), "{}", errors(&retried));
    let several = stack.cli(&["get", &ids[0][..4]]).await;
    assert_eq!(several.status.code(), Some(1));
    let told = errors(&several);
    assert!(told.contains(&ids[0]) && told.contains(&ids[1]), "{told}");
    let none = stack.cli(&["cancel", "ffffffff"]).await;
    assert_eq!(none.status.code(), Some(1));
    assert!(errors(&none).contains("begins with ffffffff"), "{}", errors(&none));
    for nonsense in ["nonsense", "", "..", "latest", "-1"] {
        let output = stack.cli(&["get", nonsense]).await;
        assert_eq!(output.status.code(), Some(2), "{nonsense}: {}", errors(&output));
    }
    let (status, problem) = stack.get("/v1/projects/team/builds?id=xyz").await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_query")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slipway_tells_about_itself_without_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = |line: &str| {
        let mut command =
            slipway_tests::process::command(slipway_tests::process::program("slipway"));
        command.args(line.split_whitespace()).current_dir(directory.path());
        command.env("HOME", directory.path()).output().expect("it runs")
    };
    assert_eq!(text(&run("version")), text(&run("--version")));
    let version: Value =
        serde_json::from_slice(&run("version --output json").stdout).expect("a document");
    assert!(version["version"].is_string(), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("completion {shell}"));
        assert_eq!(script.status.code(), Some(0));
        assert!(text(&script).contains("environments"), "{shell}");
    }
    assert!(text(&run("man")).contains(".TH"));
    assert_eq!(run("man pages").status.code(), Some(0));
    assert!(directory.path().join("pages/slipway-build.1").exists());
    let help = text(&run("build --help"));
    assert!(help.contains("Examples:") && help.contains("repeatable"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_cannot_be_written_are_a_failure_and_a_closed_pipe_is_none() {
    let stack = Stack::start().await;
    let id = stack.submit(&stack.tool("full", &stack.image("full/tool:1")).await).await;
    let status = async |stdout: Stdio| {
        let mut cli = stack.cli_command();
        cli.args(["get", &id]).stdout(stdout).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || cli.output().expect("it runs")).await;
        output.expect("no panic")
    };
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it opens");
    let output = status(full.into()).await;
    assert_eq!(output.status.code(), Some(1));
    let told = errors(&output);
    assert!(told.contains("No space left on device") && !told.contains("os error"), "{told}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = status(writer.into()).await;
    assert_eq!((output.status.code(), errors(&output)), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_says_why() {
    let mut stack = Stack::start().await;
    let large = stack.directory.path().join("large");
    let mut bytes = artifacts::elf(62, "large");
    bytes.resize(64 << 20, 7);
    std::fs::write(&large, bytes).expect("it is written");
    let image = stack.image("broken/tool:1");
    let mut cli = stack.cli_command();
    cli.args(["submit", large.to_str().expect("UTF-8"), "--image", &image]);
    cli.args(["--environment", "scratch"]).stderr(Stdio::piped()).stdout(Stdio::piped());
    stack.dispatcher.signal("STOP");
    let cli = cli.spawn().expect("it runs");
    let running = tokio::task::spawn_blocking(move || cli.wait_with_output().expect("it ends"));
    stack.dispatcher.signal("CONT");
    wait::until("the upload to begin", wait::SOON, || async {
        let uploads = std::fs::read_dir(stack.store().join("uploads")).ok()?.count();
        (uploads > 0).then_some(())
    })
    .await;
    stack.dispatcher.kill();
    stack.restart_dispatcher().await;
    let output = running.await.expect("no panic");
    let told = errors(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let reason = told.lines().find(|line| line.contains("trying again in"));
    assert!(reason.is_some_and(|line| line.contains("connection")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_told_in_units_for_people() {
    let stack = Stack::start_with(&["--max-artifact-bytes=2048"]).await;
    let (status, problem) = stack.try_upload("tool", vec![0; 5000]).await;
    assert_eq!(status, 413, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|told| told.contains("2 KiB")), "{problem}");
}
