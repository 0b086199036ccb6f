// SPDX-License-Identifier: Apache-2.0

//! What only `java -jar` reads is built as it is; what becomes files in an image must be one tree.

use serde_json::json;
use slipway_tests::Stack;
use slipway_tests::artifacts::{self, ZipEntry, class, entry, zip};

/// Entries that no file system takes as they are, or takes in two ways.
fn odd() -> Vec<(&'static str, Vec<ZipEntry>)> {
    let names = |names: &[&str]| names.iter().map(|name| entry(name, *name)).collect();
    vec![
        ("duplicate_entry", vec![entry("META-INF/LICENSE", "a"), entry("META-INF/LICENSE", "b")]),
        ("duplicate_entry", vec![entry("x", "1"), entry("x/", ""), entry("x/y", "2")]),
        ("unsafe_path", names(&["config\\app.properties"])),
        ("unsafe_path", names(&["/a"])),
        ("unsafe_path", names(&["a//b"])),
        ("unsafe_path", names(&["./a"])),
        ("unsafe_path", names(&["../evil", "a/../../evil"])),
        ("unsafe_path", names(&["/etc/passwd"])),
        ("unsafe_path", names(&["C:/a"])),
        ("unsafe_path", names(&["a\0b"])),
    ]
}

fn manifest(lines: &str) -> ZipEntry {
    entry("META-INF/MANIFEST.MF", format!("Manifest-Version: 1.0\r\n{lines}\r\n\r\n"))
}

fn jar(odd: Vec<ZipEntry>) -> Vec<u8> {
    let jar = [manifest("Main-Class: Main"), entry("Main.class", class(17))];
    zip(&[jar.to_vec(), odd].concat())
}

fn boot_jar(odd: Vec<ZipEntry>) -> Vec<u8> {
    let launcher = "org/springframework/boot/loader/launch/JarLauncher";
    let main = launcher.replace('/', ".");
    let boot = [
        manifest(&format!("Main-Class: {main}\r\nStart-Class: A\r\nSpring-Boot-Version: 3.3.4")),
        entry(&format!("{launcher}.class"), class(17)),
        entry("BOOT-INF/classes/A.class", class(17)),
    ];
    zip(&[boot.to_vec(), odd].concat())
}

fn war(odd: Vec<ZipEntry>) -> Vec<u8> {
    zip(&[vec![entry("WEB-INF/web.xml", "<web-app/>")], odd].concat())
}

async fn built_unchanged(stack: &Stack, number: usize, bytes: Vec<u8>) {
    let repository = format!("odd/app{number}");
    let more = json!({"compression": "none"});
    let build = stack.run("app.jar", bytes.clone(), &format!("{repository}:1"), more).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let layers = build["image"]["layers"].as_array().expect("layers");
    let digest = layers.last().expect("ours")["digest"].as_str().expect("a digest");
    let tar = stack.registry.blob(&repository, digest).await;
    assert!(tar.windows(bytes.len()).any(|window| window == bytes), "the file is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jar_that_java_runs_is_built_byte_for_byte() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let directories = vec![entry("META-INF/", ""), entry("META-INF/", ""), entry("META-INF", "")];
    let odd = odd().into_iter().map(|(_, odd)| odd).chain([directories]);
    for (number, odd) in odd.enumerate() {
        built_unchanged(&stack, number, jar(odd)).await;
    }
    let front = zip(&[entry("note.txt", "x")]);
    built_unchanged(&stack, 100, [front, jar(Vec::new())].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_entries_are_refused_where_they_would_become_files() {
    let stack = Stack::start().await;
    for (code, odd) in odd() {
        for (filename, bytes) in [("app.jar", boot_jar(odd.clone())), ("shop.war", war(odd))] {
            let (status, problem) = stack.try_upload(filename, bytes).await;
            assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_content_cannot_disagree() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let harmless = [
        entry("META-INF/", ""),
        entry("META-INF", ""),
        entry("META-INF/", ""),
        entry("empty", ""),
        entry("empty", ""),
    ];
    let build = stack.run("app.jar", boot_jar(harmless.to_vec()), "odd/boot:1", json!({})).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let layers = build["image"]["layers"].as_array().expect("layers").len();
    let listing = stack.registry.listing("odd/boot", "1", layers - 1).await.join("\n");
    assert!(listing.contains("drwxr-xr-x 0/0 0 1970-01-01 00:00:01 app/META-INF/"), "{listing}");
    assert_eq!(listing.matches("app/empty").count(), 1, "{listing}");
}

/// The name and the bytes are compared for each submission, whatever was uploaded before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_does_not_depend_on_what_was_uploaded_before() {
    let stack = Stack::start().await;
    for (bytes, right, wrong) in
        [(jar(Vec::new()), "fresh.jar", "fresh.war"), (artifacts::war(), "w.war", "w.jar")]
    {
        let (status, problem) = stack.try_upload(wrong, bytes.clone()).await;
        assert_eq!((status, &problem["code"]), (422, &json!("kind_mismatch")), "{problem}");
        let artifact = stack.upload(right, bytes).await;
        let mut request = json!({
            "artifact": artifact, "image": stack.image("a/b:1"), "filename": wrong
        });
        let (status, problem) = stack.try_submit(&request).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_request")), "{problem}");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["field"], &error["code"]),
            (&json!("filename"), &json!("kind_mismatch"))
        );
        request["filename"] = right.into();
        stack.submit(&request).await;
    }
}
