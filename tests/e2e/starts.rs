// SPDX-License-Identifier: Apache-2.0

//! How images start, by running them: home, working directory, options of Java, and what an
//! executable finds in its base.

mod native;

use std::path::Path;

use serde_json::{Value, json};
use slipway_tests::container::{Podman, succeed};
use slipway_tests::process::{command, repository};
use slipway_tests::{Stack, artifacts};

const JAVA_17: &str = "docker.io/library/eclipse-temurin:17-jre";

/// Prints what it finds, and writes to the places that programs write to.
const PROGRAM: &str = r#"
    import java.nio.file.*;
    public class Program {
        public static void main(String[] arguments) throws Exception {
            Path home = Path.of(System.getProperty("user.home"));
            Files.createDirectories(Path.of("data"));
            Files.writeString(Path.of("data/x"), "x");
            Files.writeString(home.resolve(".x"), "x");
            System.out.println("home=" + home);
            System.out.println("mib=" + Runtime.getRuntime().maxMemory() / 1048576);
            System.out.println("star=" + System.getProperty("star"));
            System.out.println("arguments=" + String.join("|", arguments));
        }
    }
"#;

/// Needs `java.lang` to be opened, as some frameworks do.
const LAUNCHER: &str = r#"
    package org.springframework.boot.loader.launch;
    public class JarLauncher {
        public static void main(String[] arguments) throws Exception {
            String.class.getDeclaredField("value").setAccessible(true);
            System.out.println("opened " + String.join("|", arguments));
        }
        public static void agentmain(String options) {
            System.out.println("the agent is here");
        }
    }
"#;

/// Compiles a class for Java 17 and returns its file.
async fn compile(directory: &Path, name: &str, source: &str) -> Vec<u8> {
    let simple = name.rsplit_once('/').map_or(name, |(_, simple)| simple);
    let file = directory.join(format!("{simple}.java"));
    std::fs::write(&file, source).expect("it can be written");
    let mut javac = command("javac");
    javac.args(["--release", "17", "-d"]).arg(directory.join("classes")).arg(&file);
    succeed(javac).await;
    std::fs::read(directory.join("classes").join(format!("{name}.class"))).expect("it was compiled")
}

/// Starts everything, with a stand-in for Java 17 in the registry.
async fn stack_with_java() -> Stack {
    let stack = Stack::with_worker().await;
    let mut bases = command(repository().join("dev/base-images.sh"));
    bases.arg(&stack.registry.address).arg(JAVA_17);
    succeed(bases).await;
    stack
}

/// Builds an artifact and returns the reference to pull.
async fn built(stack: &Stack, file: &str, bytes: Vec<u8>, image: &str, more: Value) -> String {
    let build = stack.run(file, bytes, image, more).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    build["image"]["pull"].as_str().expect("a reference").to_owned()
}

async fn program(directory: &Path) -> Vec<u8> {
    let class = compile(directory, "Program", PROGRAM).await;
    artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", "Main-Class: Program\n"),
        artifacts::entry("Program.class", class),
    ])
}

/// Returns the value of a line that a program printed.
fn line<'a>(output: &'a str, name: &str) -> &'a str {
    let found = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {output}"))
}

fn mib(output: &str) -> u64 {
    line(output, "mib").parse().expect("a number")
}

/// The memory of this machine, in MiB.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("it is Linux");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_java_program_writes_where_programs_write_whoever_runs_it() {
    let stack = stack_with_java().await;
    let directory = stack.directory.path();
    let jar = program(directory).await;
    let podman = Podman::new(directory);
    let image = built(&stack, "app.jar", jar.clone(), "starts/own:1", json!({})).await;
    let other = json!({"base": JAVA_17, "environment": "java-17"});
    let other = built(&stack, "app.jar", jar, "starts/other:1", other).await;
    for image in [image, other] {
        podman.pull(&image).await;
        for user in ["--user=65532:65532", "--user=12345", "--user=12345:0", "--user=0"] {
            // As Kubernetes does: the user has no entry in /etc/passwd.
            let options = ["--passwd=false", user];
            let output = podman.output(&options, &image, &["a", "b c"]).await;
            assert_eq!(line(&output, "home"), "/home/app", "{user}: {output}");
            assert_eq!(line(&output, "arguments"), "a|b c", "{user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_java_count_when_the_container_starts() {
    let stack = stack_with_java().await;
    let directory = stack.directory.path();
    let jar = program(directory).await;
    let podman = Podman::new(directory);
    let image = built(&stack, "app.jar", jar.clone(), "options/own:1", json!({})).await;
    podman.pull(&image).await;
    let with = async |variable: &str| podman.output(&["-e", variable], &image, &[]).await;

    let usual = mib(&podman.output(&[], &image, &[]).await);
    let memory = memory();
    assert!((memory * 3 / 5..memory * 4 / 5).contains(&usual), "{usual} of {memory} MiB");
    for variable in
        ["JAVA_OPTIONS=-Xmx64m", "JAVA_TOOL_OPTIONS=-Xmx64m", "JDK_JAVA_OPTIONS=-Xmx64m"]
    {
        assert!(mib(&with(variable).await) <= 64, "{variable}");
    }
    for variable in [
        "JAVA_OPTIONS=-XX:MaxRAMPercentage=10",
        "JAVA_TOOL_OPTIONS=-XX:MaxRAMPercentage=10",
        "JDK_JAVA_OPTIONS=-XX:MaxRAMPercentage=10",
    ] {
        assert!(mib(&with(variable).await) < memory / 5, "{variable}");
    }
    // Words, and no names of files.
    let output = with("JAVA_OPTIONS=-Dstar=/* -Duser.home=/tmp").await;
    assert_eq!((line(&output, "star"), line(&output, "home")), ("/*", "/tmp"));
    assert_eq!(line(&with("HOME=/tmp").await, "home"), "/tmp");

    // A variable of the build, on a base of its own and on another.
    for (base, name) in [(Value::Null, "built"), (JAVA_17.into(), "other")] {
        let more = json!({
            "environment": "java-17", "base": base, "env": {"JAVA_OPTIONS": "-Xmx64m -Dstar=1"}
        });
        let image = built(&stack, "app.jar", jar.clone(), &format!("options/{name}:1"), more).await;
        podman.pull(&image).await;
        let output = podman.output(&[], &image, &[]).await;
        assert!(mib(&output) <= 64 && line(&output, "star") == "1", "{name}: {output}");
        assert!(!output.contains("Picked up"), "{name}: {output}");
        let options = ["-e", "JDK_JAVA_OPTIONS=-Dstar=2 -Duser.language=de"];
        let output = podman.output(&options, &image, &[]).await;
        assert!(output.contains("Picked up JDK_JAVA_OPTIONS"), "{name}: {output}");
    }
}

/// A Spring Boot JAR with more attributes in its manifest.
async fn boot_jar(directory: &Path, attributes: &str) -> Vec<u8> {
    let launcher = "org/springframework/boot/loader/launch/JarLauncher";
    let class = compile(directory, launcher, LAUNCHER).await;
    let manifest = format!(
        "Manifest-Version: 1.0\r\nMain-Class: {}\r\nStart-Class: A\r\n\
        Spring-Boot-Version: 3.3.4\r\n{attributes}\r\n",
        launcher.replace('/', ".")
    );
    artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", manifest),
        artifacts::entry(&format!("{launcher}.class"), class),
        artifacts::entry("BOOT-INF/classes/A.class", artifacts::class(17)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exploded_jar_has_what_its_manifest_opens() {
    let stack = stack_with_java().await;
    let directory = stack.directory.path();
    let podman = Podman::new(directory);
    let opens = "--add-opens=java.base/java.lang=ALL-UNNAMED";
    let many: String = (0..60)
        .map(|number| format!("Add-Exports: java.base/some.package{number}\r\n"))
        .collect::<String>()
        .replace("\r\nAdd-Exports:", "\r\n ");
    for (name, attributes, expected) in [
        ("opens", "Add-Opens: java.base/java.lang\r\n".to_owned(), "opened x y"),
        ("file", format!("Add-Opens: java.base/java.lang\r\n{many}"), "opened x y"),
        (
            "agent",
            "Launcher-Agent-Class: org.springframework.boot.loader.launch.JarLauncher\r\n\
            Add-Opens: java.base/java.lang\r\n"
                .to_owned(),
            "the agent is here",
        ),
        ("none", String::new(), "InaccessibleObjectException"),
    ] {
        let jar = boot_jar(directory, &attributes).await;
        let repository = format!("opens/{name}");
        let image = built(&stack, "app.jar", jar, &format!("{repository}:1"), json!({})).await;
        podman.pull(&image).await;
        let output = podman.output(&[], &image, &["x y"]).await;
        assert!(output.contains(expected), "{name}: {output}");
        let config = stack.registry.config(&repository, "1").await;
        let words = config["config"]["Entrypoint"].as_array().expect("an entrypoint").clone();
        let end = |words: &[Value]| -> Vec<String> {
            words
                .iter()
                .rev()
                .take(4)
                .rev()
                .filter_map(|word| word.as_str().map(str::to_owned))
                .collect()
        };
        let end = end(&words);
        match name {
            "opens" => assert_eq!(end[..3], [opens, "-cp", "/app"]),
            "file" => assert_eq!(end[3], "@/app/META-INF/slipway/java.args"),
            "agent" => assert_eq!(end[2..], ["-jar", "/app/app.jar"]),
            _ => assert_eq!(end[..3], ["java", "-cp", "/app"]),
        }
    }
    // Java 8 does not know the options.
    stack.registry.put_base("docker.io/library/eclipse-temurin", "8-jre", json!({})).await;
    let jar = artifacts::zip(&[
        artifacts::entry(
            "META-INF/MANIFEST.MF",
            "Main-Class: org.springframework.boot.loader.JarLauncher\nSpring-Boot-Version: 2.7.18\n\
            Add-Opens: java.base/java.lang\nLauncher-Agent-Class: A\n",
        ),
        artifacts::entry("org/springframework/boot/loader/JarLauncher.class", artifacts::class(8)),
        artifacts::entry("BOOT-INF/classes/A.class", artifacts::class(8)),
    ]);
    built(&stack, "old.jar", jar, "opens/old:1", json!({"environment": "java-8"})).await;
    let config = stack.registry.config("opens/old", "1").await;
    let entrypoint = config["config"]["Entrypoint"].to_string();
    assert!(!entrypoint.contains("add-opens") && entrypoint.contains("\"-cp\""), "{entrypoint}");
}
