// SPDX-License-Identifier: Apache-2.0

//! Executables that were really linked.

use std::path::Path;

use serde_json::{Value, json};
use slipway_tests::Stack;
use slipway_tests::container::{Podman, succeed};
use slipway_tests::process::{command, repository};

/// Writes to the places that programs write to.
const WRITER: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/stat.h>
    #include <unistd.h>
    static void put(const char *path) {
        FILE *file = fopen(path, "w");
        if (!file) { perror(path); exit(1); }
        fclose(file);
    }
    int main(void) {
        char path[300];
        snprintf(path, sizeof path, "%s/.x", getenv("HOME"));
        mkdir("data", 0755);
        put("data/x"); put(path); put("/tmp/x");
        puts("all written");
        return 0;
    }
"#;

/// Runs lines of shell in a directory.
async fn shell(directory: &Path, script: &str) {
    let mut shell = command("sh");
    shell.args(["-euc", script]).current_dir(directory);
    succeed(shell).await;
}

fn read(directory: &Path, name: &str) -> Vec<u8> {
    std::fs::read(directory.join(name)).expect("it was linked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_writes_where_programs_write_whoever_runs_it() {
    let stack = Stack::with_worker().await;
    let directory = stack.directory.path();
    let mut bases = command(repository().join("dev/base-images.sh"));
    bases.arg(&stack.registry.address).args([
        "gcr.io/distroless/static-debian12:nonroot",
        "gcr.io/distroless/cc-debian12:nonroot",
    ]);
    succeed(bases).await;
    std::fs::write(directory.join("writer.c"), WRITER).expect("it can be written");
    shell(directory, "gcc -static writer.c -o fixed; gcc writer.c -o dynamic").await;
    let podman = Podman::new(directory);
    for (environment, file) in
        [("scratch", "fixed"), ("static", "fixed"), ("cc", "dynamic"), ("auto", "dynamic")]
    {
        let image = format!("writes/{environment}:1");
        let more = json!({"environment": environment});
        let build = stack.run("tool", read(directory, file), &image, more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let pull = build["image"]["pull"].as_str().expect("a reference");
        podman.pull(pull).await;
        for user in ["--user=65532", "--user=12345:0"] {
            let output = podman.output(&["--passwd=false", user], pull, &[]).await;
            assert!(output.contains("all written"), "{environment} {user}: {output}");
        }
    }
}

/// Submits an executable for an environment, and returns the status and the answer's text.
async fn submitted(stack: &Stack, file: Vec<u8>, more: Value) -> (u16, String) {
    let artifact = stack.upload("tool", file).await;
    let mut request = json!({"artifact": artifact, "image": stack.image("needs/tool:1")});
    for (field, value) in more.as_object().into_iter().flatten() {
        request[field] = value.clone();
    }
    let (status, document) = stack.try_submit(&request).await;
    (status, document.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_that_its_base_cannot_start_is_refused() {
    let stack = Stack::start().await;
    let directory = stack.directory.path();
    // A C library of another version, which is linked with and never run.
    for version in ["2.39", "2.36"] {
        shell(
            directory,
            &format!(
                "echo 'void f(void){{}}' >l.c; echo 'GLIBC_{version} {{ f; }};' >l.map
                gcc -shared -nostdlib -Wl,-soname,libc.so.6 -Wl,--version-script=l.map l.c -o l.so
                echo 'void f(void); void _start(void){{ f(); }}' >m.c
                gcc -nostdlib -no-pie m.c ./l.so -o tool-{version}"
            ),
        )
        .await;
    }
    shell(
        directory,
        ": >e.c; gcc -shared -Wl,-soname,libz.so.1 e.c -o z.so
        echo 'int main(){return 0;}' >n.c; gcc n.c -Wl,--no-as-needed ./z.so -o needs-z",
    )
    .await;
    let newer = read(directory, "tool-2.39");
    for environment in ["auto", "cc"] {
        let (status, text) =
            submitted(&stack, newer.clone(), json!({"environment": environment})).await;
        assert_eq!(status, 422, "{text}");
        assert!(text.contains("2.39") && text.contains("2.36"), "{text}");
        let needs_z = read(directory, "needs-z");
        let (status, text) = submitted(&stack, needs_z, json!({"environment": environment})).await;
        assert_eq!(status, 422, "{text}");
        assert!(text.contains("libz.so.1") && text.contains("statically"), "{text}");
    }
    for (file, more) in [
        ("tool-2.36", json!({"environment": "cc"})),
        ("tool-2.39", json!({"environment": "cc", "base": "registry.example/debian:13"})),
        ("needs-z", json!({"environment": "cc", "base": "registry.example/debian:13"})),
    ] {
        let (status, text) = submitted(&stack, read(directory, file), more).await;
        assert_eq!(status, 202, "{file}: {text}");
    }
}
