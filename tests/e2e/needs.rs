// SPDX-License-Identifier: Apache-2.0

//! The environment that `auto` chooses from what an artifact needs, and what is said about it.

use serde_json::{Value, json};
use slipway_tests::Stack;
use slipway_tests::artifacts::{ZipEntry, deflated, entry, zip};

/// The start of a class file with a name in its constant pool.
fn class(major: u16, minor: u16, name: &str) -> Vec<u8> {
    let numbers = [minor, major].map(u16::to_be_bytes).concat();
    [b"\xca\xfe\xba\xbe", numbers.as_slice(), b"\0\x05\x01", name.as_bytes()].concat()
}

fn manifest(lines: &[&str]) -> ZipEntry {
    entry(
        "META-INF/MANIFEST.MF",
        format!("Manifest-Version: 1.0\r\n{}\r\n\r\n", lines.join("\r\n")),
    )
}

const LAUNCHER: &str = "org/springframework/boot/loader/launch/JarLauncher";

fn boot(version: &str, launcher: u16, own: u16, library: Option<u16>) -> Vec<u8> {
    let main = format!("Main-Class: {}", LAUNCHER.replace('/', "."));
    let version = format!("Spring-Boot-Version: {version}");
    let mut entries = vec![
        manifest(&[&main, "Start-Class: A", &version]),
        entry(&format!("{LAUNCHER}.class"), class(launcher, 0, "x")),
        entry("BOOT-INF/classes/A.class", class(own, 0, "x")),
    ];
    entries.extend(library.map(|major| {
        entry("BOOT-INF/lib/a.jar", zip(&[deflated("L.class", class(major, 0, "x"))]))
    }));
    zip(&entries)
}

fn jar(major: u16, minor: u16, more: &[&str]) -> Vec<u8> {
    let lines = [&["Main-Class: M"], more].concat();
    zip(&[manifest(&lines), entry("M.class", class(major, minor, "x"))])
}

fn war(entries: &[ZipEntry]) -> Vec<u8> {
    zip(entries)
}

fn own(major: u16, names: &str) -> ZipEntry {
    entry("WEB-INF/classes/S.class", class(major, 0, names))
}

fn web_xml(text: &str) -> ZipEntry {
    entry("WEB-INF/web.xml", text)
}

const OLD: &str = "<web-app xmlns=\"http://xmlns.jcp.org/xml/ns/javaee\" version=\"3.1\"/>";
const NEW: &str = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"5.0\"/>";
const INITIALIZER: &str =
    "org/springframework/boot/web/servlet/support/SpringBootServletInitializer";

/// What a submission is answered: the environment and the notes.
async fn accepted(stack: &Stack, filename: &str, bytes: Vec<u8>, more: &Value) -> (String, String) {
    let mut request = json!({"artifact": stack.upload(filename, bytes).await});
    request["image"] = stack.image("needs/app:1").into();
    for (field, value) in more.as_object().into_iter().flatten() {
        request[field] = value.clone();
    }
    let (status, build) = stack.try_submit(&request).await;
    if status != 202 {
        return (String::new(), build["errors"][0]["detail"].to_string());
    }
    let recipe = &build["request"]["recipe"];
    let environment = recipe["environment"].as_str().expect("a name").to_owned();
    (environment, build["request"]["notes"].to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_release_is_the_newest_of_all_that_is_loaded() {
    let stack = Stack::start().await;
    for (bytes, expected, says) in [
        (boot("3.2.5", 61, 52, None), "java-17", "JarLauncher.class"),
        (boot("3.2.5", 52, 52, None), "java-17", "Spring Boot 3.2.5"),
        (boot("3.2.5", 61, 61, Some(65)), "java-21", "BOOT-INF/lib/a.jar"),
        (boot("2.7.18", 52, 52, Some(52)), "java-8", "Java 8"),
        (boot("4.0.0", 61, 61, Some(75)), "java-25", "and the image has Java 25"),
        (jar(61, 0, &[]), "java-17", "`M.class`"),
        (zip(&[manifest(&["Main-Class: M"]), entry("x", "")]), "java-17", "is assumed"),
    ] {
        let (environment, notes) = accepted(&stack, "app.jar", bytes, &json!({})).await;
        assert_eq!(environment, expected, "{notes}");
        assert!(notes.contains(says), "{notes}");
    }
    let (_, refusal) = accepted(&stack, "app.jar", jar(70, 0, &[]), &json!({})).await;
    assert!(refusal.contains("needs Java 26") && refusal.contains("Java 25"), "{refusal}");
    let named = json!({"environment": "java-17"});
    let newer = boot("3.2.5", 61, 61, Some(65));
    let (environment, notes) = accepted(&stack, "app.jar", newer, &named).await;
    assert_eq!(environment, "java-17");
    assert!(notes.contains("needs Java 21 and the image has Java 17"), "{notes}");
    let based = json!({"base": stack.image("own/java:26")});
    let (environment, notes) = accepted(&stack, "app.jar", jar(70, 0, &[]), &based).await;
    assert_eq!(environment, "java-25", "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_features_run_on_their_release_alone_and_are_enabled() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let (_, refusal) = accepted(&stack, "app.jar", jar(66, 65535, &[]), &json!({})).await;
    assert!(refusal.contains("Java 22"), "{refusal}");
    let named = json!({"environment": "java-21"});
    let (_, refusal) = accepted(&stack, "app.jar", jar(61, 65535, &[]), &named).await;
    assert!(refusal.contains("Java 17"), "{refusal}");
    let build = stack.run("app.jar", jar(61, 65535, &[]), "needs/preview:1", json!({})).await;
    assert_eq!(build["state"], "succeeded", "{build}");
    let config = stack.registry.config("needs/preview", "1").await;
    let command = config["config"]["Entrypoint"].to_string();
    let at = |part: &str| command.find(part).unwrap_or_else(|| panic!("{part}: {command}"));
    assert!(at("--enable-preview") < at("-jar"), "{command}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servlet_api_of_a_war_is_told_by_everything_in_it() {
    let stack = Stack::start().await;
    let boot = |version: &str| manifest(&[&format!("Spring-Boot-Version: {version}")]);
    let nested = |name: &str, bytes: Vec<u8>| entry(&format!("WEB-INF/lib/{name}"), bytes);
    let javax = "javax/servlet/http/HttpServlet";
    let jakarta = "jakarta/servlet/http/HttpServlet";
    let library = zip(&[entry("S.class", class(65, 0, javax))]);
    let deflated_library = ZipEntry { is_deflated: true, ..nested("shop.jar", library.clone()) };
    let any = zip(&[entry("x", "1")]);
    for (entries, expected, says) in [
        (vec![boot("2.7.18"), own(52, INITIALIZER)], "tomcat-9-java-8", "Spring Boot 2.7.18"),
        (vec![web_xml(OLD), own(61, jakarta)], "tomcat-10-java-17", "S.class"),
        (vec![web_xml(NEW), own(61, javax)], "tomcat-9-java-17", "one of them does not work"),
        (vec![nested("shop.jar", library.clone())], "tomcat-9-java-21", "shop.jar"),
        (vec![deflated_library], "tomcat-9-java-21", "shop.jar"),
        (
            vec![
                own(61, jakarta),
                nested("shop.jar", zip(&[entry("S.class", class(52, 0, javax))])),
            ],
            "tomcat-10-java-17",
            "S.class",
        ),
        (
            vec![boot("4.0.0"), nested("spring-web-7.0.1.jar", any.clone())],
            "tomcat-11-java-17",
            "Spring Boot 4.0.0",
        ),
        (vec![nested("spring-web-7.0.1.jar", any)], "tomcat-11-java-17", "spring-web-7.0.1.jar"),
        (vec![boot("3.3.4"), own(61, INITIALIZER)], "tomcat-10-java-17", "Spring Boot 3.3.4"),
        (vec![own(61, "x"), web_xml("<web-app/>")], "tomcat-10-java-17", "is assumed"),
    ] {
        let (environment, notes) = accepted(&stack, "shop.war", war(&entries), &json!({})).await;
        assert_eq!(environment, expected, "{notes}");
        assert!(notes.contains(says), "{notes}");
    }
    let newest = war(&[boot("4.0.0"), own(61, INITIALIZER)]);
    let (_, refusal) =
        accepted(&stack, "shop.war", newest, &json!({"environment": "tomcat-10"})).await;
    assert!(refusal.contains("6.1") && refusal.contains("Tomcat 11"), "{refusal}");
    let old = war(&[web_xml(OLD), own(61, jakarta)]);
    let (environment, _) =
        accepted(&stack, "shop.war", old, &json!({"environment": "tomcat-10"})).await;
    assert_eq!(environment, "tomcat-10-java-17");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_archive_that_starts_by_itself_is_a_jar_where_one_is_asked_for() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let executable = |main: &str| {
        let start = entry("M.class", class(61, 0, "x"));
        war(&[manifest(&[main]), start, web_xml("<web-app/>"), entry("a\\b", "x")])
    };
    let bytes = executable("Main-Class: M");
    for (number, filename, environment) in [(1, "app.jar", "auto"), (2, "app.war", "java-17")] {
        let image = format!("needs/war:{number}");
        let more = json!({"environment": environment, "compression": "none"});
        let build = stack.run(filename, bytes.clone(), &image, more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let config = stack.registry.config("needs/war", &number.to_string()).await;
        let command = config["config"]["Entrypoint"].as_array().expect("a command").clone();
        let end = [json!("-jar"), json!(format!("/app/{filename}"))];
        assert!(command.ends_with(&end), "{command:?}");
        let digest = build["image"]["layers"][1]["digest"].as_str().expect("ours");
        let tar = stack.registry.blob("needs/war", digest).await;
        assert!(tar.windows(bytes.len()).any(|window| window == bytes), "laid down whole");
    }
    let (_, refusal) = accepted(&stack, "app.war", bytes, &json!({})).await;
    assert!(refusal.contains("backslash"), "Tomcat unpacks it: {refusal}");
    let plain = war(&[manifest(&["A: b"]), web_xml("<web-app/>")]);
    let named = json!({"environment": "java-17"});
    let (_, refusal) = accepted(&stack, "plain.war", plain, &named).await;
    assert!(refusal.contains("the artifact is a war"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_start_is_told_in_the_answer_and_in_the_log() {
    let stack = Stack::with_worker().await;
    stack.registry.put_base("docker.io/library/eclipse-temurin", "17-jre", json!({})).await;
    let thin = jar(61, 0, &["Class-Path: lib/boot/dep-1.0.jar"]);
    let build = stack.run("quarkus-run.jar", thin, "needs/thin:1", json!({})).await;
    let warning = "Class-Path names lib/boot/dep-1.0.jar, which is not in the upload; upload one";
    assert!(build["request"]["notes"].to_string().contains(warning), "{build}");
    let log = stack.log(build["id"].as_str().expect("an id")).await;
    assert!(log.contains(&format!("warning: {warning}")) && log.contains("uber-jar"), "{log}");
    let whole = jar(61, 0, &["Class-Path: . conf/"]);
    let build = stack.run("app.jar", whole, "needs/whole:1", json!({})).await;
    let log = stack.log(build["id"].as_str().expect("an id")).await;
    assert!(!log.contains("warning: "), "{log}");
    let library =
        zip(&[entry("META-INF/MANIFEST.MF", "A: b\n"), entry("M.class", class(61, 0, ""))]);
    let (_, refusal) = accepted(&stack, "app-plain.jar", library, &json!({})).await;
    assert!(refusal.contains("Main-Class") && refusal.contains("bootJar"), "{refusal}");
}
