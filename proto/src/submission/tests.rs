// SPDX-License-Identifier: Apache-2.0

use serde_json::json;

use super::*;
use crate::artifact::{ElfFacts, JarFacts};
use crate::platform::{Architecture, Variant};

fn uploaded() -> Uploaded {
    Uploaded {
        size_bytes: 10,
        filename: "app.jar".into(),
        facts: ArtifactFacts::Jar(JarFacts {
            java_release: Some(17),
            main_class: Some("Main".into()),
            ..JarFacts::default()
        }),
    }
}

fn accept(document: &Value, uploaded: Option<&Uploaded>) -> Result<BuildRequest, Vec<FieldError>> {
    let project = "team".parse().expect("a name");
    Submission::read(document).accept(BuildId::fresh(), project, uploaded, &Catalogue::default())
}

fn mistakes(document: &Value, uploaded: Option<&Uploaded>) -> Vec<(String, String)> {
    accept(document, uploaded)
        .expect_err("the request has mistakes")
        .into_iter()
        .map(|error| (error.field, error.code))
        .collect()
}

#[test]
fn the_request_of_the_documentation_is_accepted() {
    let request = accept(
        &json!({
            "artifact": Digest::of(b"x").to_string(), "image": "registry.example/team/app:1.4",
            "additional_tags": ["latest"], "environment": "auto",
            "env": {"JAVA_OPTIONS": "-Xmx256m"}, "labels": {}, "annotations": {}, "ports": [8080],
            "args": [], "user": null, "platform": null, "priority": "normal", "pool": "default",
            "registry_secret": "dockerhub", "timeout_s": 600, "max_attempts": 5
        }),
        Some(&uploaded()),
    )
    .expect("it is accepted");
    assert_eq!(request.recipe.environment, "java-17");
    assert_eq!(request.references.len(), 2);
    assert_eq!(request.references[1].to_string(), "registry.example/team/app:latest");
}

#[test]
fn every_mistake_is_reported_at_once_by_field() {
    let document = json!({
        "artifact": "sha256:12", "image": "app", "imagge": 1, "additional_tags": ["-"],
        "environment": "jawa-17", "env": {"1A": "x", "B": 2}, "ports": [0, "80/sctp"],
        "user": "a b",
        "platform": "linux/z80", "priority": "urgent", "pool": "A", "timeout_s": 0,
        "max_attempts": 99, "args": [1], "labels": [], "filename": "../x", "base": "UPPER/x",
        "compression": "xz"
    });
    let mut found = mistakes(&document, None);
    found.sort();
    let expected = [
        ("additional_tags.0", "invalid_tag"),
        ("args", "wrong_type"),
        ("artifact", "invalid_digest"),
        ("base", "invalid_reference"),
        ("compression", "invalid_compression"),
        ("env.1A", "invalid_variable"),
        ("env.B", "wrong_type"),
        ("environment", "environment_not_found"),
        ("filename", "invalid_filename"),
        ("image", "invalid_reference"),
        ("imagge", "unknown_field"),
        ("labels", "wrong_type"),
        ("max_attempts", "out_of_range"),
        ("platform", "invalid_platform"),
        ("pool", "invalid_name"),
        ("ports.0", "invalid_port"),
        ("ports.1", "invalid_port"),
        ("priority", "invalid_priority"),
        ("timeout_s", "out_of_range"),
        ("user", "invalid_user"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(f, c)| ((*f).to_owned(), (*c).to_owned())).collect();
    assert_eq!(found, expected);
}

#[test]
fn mistakes_that_show_only_with_the_artifact_are_reported_with_the_others() {
    let artifact = Digest::of(b"x").to_string();
    let document = json!({
        "artifact": artifact, "image": "r.example/a", "environment": "tomcat-10", "pool": "-"
    });
    let found = mistakes(&document, Some(&uploaded()));
    assert_eq!(found.len(), 2, "{found:?}");
    let missing = mistakes(&document, None);
    assert!(missing.iter().any(|(_, code)| code == "artifact_not_found"), "{missing:?}");
}

#[test]
fn an_executable_decides_the_platform_and_must_not_contradict_it() {
    let elf = Uploaded {
        facts: ArtifactFacts::Binary(ElfFacts::new(Architecture::Arm64, None)),
        filename: "app".into(),
        ..uploaded()
    };
    let artifact = Digest::of(b"x").to_string();
    let mut document = json!({"artifact": artifact, "image": "r.example/a"});
    let request = accept(&document, Some(&elf)).expect("it is accepted");
    assert_eq!(request.platform.to_string(), "linux/arm64");
    document["platform"] = "linux/amd64".into();
    assert_eq!(
        mistakes(&document, Some(&elf)),
        [("platform".to_owned(), "platform_mismatch".to_owned())]
    );
}

#[test]
fn an_executable_decides_the_variant_unless_a_newer_one_is_asked_for() {
    let mut elf = ElfFacts::new(Architecture::Arm, None);
    elf.variant = Variant::new(Architecture::Arm, 6);
    let facts = ArtifactFacts::Binary(elf);
    let elf = Uploaded { facts, filename: "app".into(), ..uploaded() };
    let mut document = json!({"artifact": Digest::of(b"x").to_string(), "image": "r.example/a"});
    for (asked, expected) in [
        (Value::Null, "linux/arm/v6"),
        ("linux/arm".into(), "linux/arm/v6"),
        ("linux/arm/v7".into(), "linux/arm/v7"),
        ("armhf".into(), "linux/arm/v7"),
    ] {
        document["platform"] = asked;
        let request = accept(&document, Some(&elf)).expect("it is accepted");
        assert_eq!(request.platform.to_string(), expected);
    }
    document["platform"] = "linux/arm/v5".into();
    assert_eq!(
        mistakes(&document, Some(&elf)),
        [("platform".to_owned(), "platform_mismatch".to_owned())]
    );
}

#[test]
fn the_name_of_each_submission_must_promise_what_the_bytes_are() {
    let artifact = Digest::of(b"x").to_string();
    let mut document = json!({"artifact": artifact, "image": "r.example/a", "filename": "a.war"});
    let mismatch = [("filename".to_owned(), "kind_mismatch".to_owned())];
    assert_eq!(mistakes(&document, Some(&uploaded())), mismatch);
    let renamed = Uploaded { filename: "b.war".into(), ..uploaded() };
    document["filename"] = Value::Null;
    assert_eq!(mistakes(&document, Some(&renamed)), mismatch);
    document["filename"] = "a.JAR".into();
    assert!(accept(&document, Some(&renamed)).is_ok());
}

#[test]
fn a_bundle_goes_below_app_and_says_what_it_lacks() {
    let facts = |form: Value, release: Option<u16>| json!({"kind": "bundle", "form": form, "java_release": release});
    let bundle = |facts: Value| Uploaded {
        size_bytes: 7,
        filename: "shop.tar.gz".into(),
        facts: serde_json::from_value(facts).expect("facts"),
    };
    let accepted = |uploaded: &Uploaded, more: Value| {
        let mut document = json!({"artifact": Digest::of(b"x"), "image": "r.example/a:1"});
        let members = document.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        let project = "team".parse().expect("a name");
        let submission = Submission::read(&document);
        submission.accept(BuildId::fresh(), project, Some(uploaded), &Catalogue::default())
    };
    let two = bundle(facts(json!({"name": "start-scripts", "scripts": ["a", "shop"]}), Some(21)));
    let request = accepted(&two, json!({})).expect("one is named as the artifact");
    assert_eq!(request.recipe.environment, "java-21");
    assert_eq!(request.recipe.layering, crate::request::Layering::Bundle);
    assert_eq!(request.recipe.destination, "/app");
    let refused = accepted(&two, json!({"filename": "x"})).expect_err("none is named");
    assert_eq!(refused[0].field, "entrypoint");
    let static_ = accepted(&two, json!({"environment": "static"})).expect_err("it has no Java");
    assert_eq!(static_[0].code, "environment_unsuitable");

    let elf = json!({"architecture": "arm64", "interpreter": null});
    let tool = json!({"name": "executables", "executables": [{"path": "bin/t", "facts": elf}]});
    let tool = bundle(facts(tool, None));
    let request = accepted(&tool, json!({})).expect("it is accepted");
    assert_eq!((&*request.recipe.environment, &*request.recipe.destination), ("static", "/app"));
    assert_eq!(request.platform.to_string(), "linux/arm64");
    assert!(accepted(&tool, json!({"environment": "java-21"})).is_err());

    let unknown = bundle(facts(json!({"name": "unknown"}), None));
    let command = json!({"entrypoint": ["/app/run"]});
    let refused = accepted(&unknown, command.clone()).expect_err("on nothing that is known");
    assert_eq!(refused[0].field, "environment");
    let mut with_base = command;
    with_base["base"] = json!("registry.example/node:22");
    let request = accepted(&unknown, with_base).expect("it is accepted");
    assert_eq!(request.recipe.entrypoint.expect("one"), ["/app/run"]);
}

#[test]
fn a_jar_that_nothing_starts_is_taken_with_an_entrypoint() {
    let library = Uploaded { facts: ArtifactFacts::Jar(JarFacts::default()), ..uploaded() };
    let mut document = json!({"artifact": Digest::of(b"x").to_string(), "image": "r.example/a"});
    let refused = accept(&document, Some(&library)).expect_err("nothing starts it");
    assert!(refused[0].detail.contains("--entrypoint"), "{refused:?}");
    document["entrypoint"] = json!(["java", "-cp", "{artifact}", "M"]);
    let request = accept(&document, Some(&library)).expect("it says what starts it");
    assert_eq!(request.recipe.entrypoint.expect("one").join(" "), "java -cp {artifact} M");
    assert_eq!(request.recipe.command, Some(Vec::new()));
    document["entrypoint"] = json!(["java", "{launch}"]);
    assert!(accept(&document, Some(&library)).is_err());
    document["entrypoint"] = json!("java");
    assert_eq!(mistakes(&document, Some(&library))[0].0, "entrypoint");
}

#[test]
fn layers_are_compressed_as_the_request_says_and_with_gzip_if_it_says_nothing() {
    let mut document = json!({"artifact": Digest::of(b"x").to_string(), "image": "r.example/a"});
    let compression =
        |document: &Value| accept(document, Some(&uploaded())).expect("it is accepted").compression;
    assert_eq!(compression(&document), Compression::Gzip);
    for (expected, name) in Compression::ALL {
        document["compression"] = name.into();
        assert_eq!(compression(&document), expected, "{name}");
    }
}

#[test]
fn the_digest_does_not_depend_on_order_or_spacing() {
    let one: Value =
        serde_json::from_str(r#"{"a": [1, {"x": "y", "b": null}], "c": 2}"#).expect("JSON");
    let two: Value = serde_json::from_str(r#"{"c":2,"a":[1,{"b":null,"x":"y"}]}"#).expect("JSON");
    assert_eq!(canonical_digest(&one), canonical_digest(&two));
    assert_ne!(canonical_digest(&one), canonical_digest(&json!({"a": [1], "c": 2})));
}

#[test]
fn what_is_not_an_object_is_refused_once() {
    assert_eq!(mistakes(&json!([1]), None), [(String::new(), "not_an_object".to_owned())]);
}
