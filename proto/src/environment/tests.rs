// SPDX-License-Identifier: Apache-2.0

//! What is said about artifacts for the JVM, and which are refused.

use super::*;
use crate::artifact::{ExecutableFacts, JarFacts, JavaFacts, ServletFacts};

fn jar(release: u16, java: JavaFacts) -> JarFacts {
    JarFacts {
        java_release: Some(release),
        java,
        main_class: Some("M".into()),
        ..JarFacts::default()
    }
}

/// A JAR whose library needs a newer release than the JAR itself.
fn with_library(own: u16, library: u16) -> ArtifactFacts {
    let told_by = Some("`a.jar`".into());
    let java = JavaFacts { told_by, own_release: Some(own), ..JavaFacts::default() };
    ArtifactFacts::Jar(jar(library, java))
}

fn with_previews(release: u16, previews: &[u16]) -> ArtifactFacts {
    let told_by = Some("`P.class`".into());
    let java = JavaFacts { told_by, previews: previews.to_vec(), ..JavaFacts::default() };
    ArtifactFacts::Jar(jar(release, java))
}

fn war(api: ServletApi, is_package_certain: bool, is_version_certain: bool) -> ArtifactFacts {
    let told_by = Some("`S.class`".into());
    ArtifactFacts::War(WarFacts {
        java_release: Some(17),
        servlet_api: Some(api),
        servlet: ServletFacts { told_by, is_package_certain, is_version_certain },
        ..WarFacts::default()
    })
}

fn choose(name: &str, facts: &ArtifactFacts, base_replaced: bool) -> Result<Choice, String> {
    let chosen = Catalogue::default().choose(name, facts, base_replaced);
    chosen.map_err(|error| error.to_string())
}

/// The environment's name, and the notes with a mark in front of warnings.
fn told(name: &str, facts: &ArtifactFacts) -> (String, String) {
    let Choice { environment, notes, .. } = choose(name, facts, false).expect("it suits");
    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    (environment.name, notes.join("|"))
}

#[test]
fn a_library_is_provided_for_by_auto_and_is_a_warning_elsewhere() {
    let (name, notes) = told(AUTO, &with_library(17, 21));
    assert_eq!((name.as_str(), notes.as_str()), ("java-21", "Java 21 is needed by `a.jar`"));
    let (_, notes) = told("java-17", &with_library(17, 21));
    assert!(notes.contains("|warning: `a.jar` needs Java 21 and the image has Java 17"), "{notes}");
    // Too new for every environment: perhaps it is never loaded.
    let (name, notes) = told(AUTO, &with_library(17, 30));
    assert!(name == "java-25" && notes.contains("warning: "), "{name} {notes}");
    let error = choose("java-11", &with_library(17, 21), false).expect_err("it is too old");
    assert!(error.contains("the application itself needs Java 17"), "{error}");
}

#[test]
fn what_is_too_new_for_every_environment_is_refused_by_name_or_built_on_a_base_of_ones_own() {
    let facts = ArtifactFacts::Jar(jar(30, JavaFacts::default()));
    let error = choose(AUTO, &facts, false).expect_err("there is none");
    assert!(error.contains("needs Java 30, and the newest has Java 25"), "{error}");
    let choice = choose(AUTO, &facts, true).expect("the base may run it");
    assert_eq!(choice.environment.name, "java-25");
    let facts = ArtifactFacts::War(WarFacts {
        java_release: Some(30),
        servlet_api: Some(ServletApi::Javax),
        ..WarFacts::default()
    });
    let error = choose(AUTO, &facts, false).expect_err("there is none");
    assert!(error.contains("the newest has Java 25"), "{error}");
}

#[test]
fn preview_features_take_their_release_and_an_option() {
    for release in [17, 21, 25] {
        let choice = choose(AUTO, &with_previews(release, &[release]), false).expect("it suits");
        assert_eq!(choice.environment.java, Some(release));
        let command = choice.environment.entrypoint.expect("a command");
        let option = command.iter().position(|part| part == "--enable-preview").expect("there");
        assert_eq!(command[option + 1], "{launch}");
    }
    for (facts, says) in [
        (with_previews(22, &[22]), "none has Java 22"),
        (with_previews(21, &[17]), "others need Java 21"),
        (with_previews(21, &[17, 21]), "others need Java 21"),
    ] {
        let error = choose(AUTO, &facts, false).expect_err("nothing runs it");
        assert!(error.contains(says), "{error}");
    }
    let error = choose("java-21", &with_previews(17, &[17]), false).expect_err("another release");
    assert!(error.contains("Java 17 and runs on no other release, and it runs Java 21"), "{error}");
    let on_base = choose(AUTO, &with_previews(22, &[22]), true).expect("the base may run it");
    assert!(on_base.notes.iter().any(|note| note.warning), "{:?}", on_base.notes);
    // A server gets the option where its own start script starts Java.
    let mut facts = war(ServletApi::Javax, true, false);
    if let ArtifactFacts::War(war) = &mut facts {
        war.java.previews = vec![17];
    }
    let choice = choose(AUTO, &facts, false).expect("it suits");
    assert_eq!(choice.environment.env["JDK_JAVA_OPTIONS"], "--enable-preview");
}

#[test]
fn a_certain_servlet_api_is_refused_elsewhere_and_another_is_a_warning() {
    use ServletApi::{Jakarta, Jakarta61, Javax};
    for (facts, name, refused) in [
        (war(Javax, true, false), "tomcat-10", true),
        (war(Javax, false, false), "tomcat-10", false),
        (war(Jakarta, true, false), "tomcat-9", true),
        (war(Jakarta, false, false), "tomcat-9", false),
        (war(Jakarta61, true, true), "tomcat-10", true),
        (war(Jakarta61, true, false), "tomcat-10", false),
        (war(Jakarta61, true, false), "tomcat-9", true),
    ] {
        match choose(name, &facts, false) {
            Ok(choice) => {
                let warning = choice.notes.iter().find(|note| note.warning).expect("a warning");
                assert!(!refused && warning.text.contains("`S.class` needs"), "{warning}");
            }
            Err(error) => assert!(refused && error.contains("choose Tomcat"), "{error}"),
        }
    }
    for (facts, name) in [
        (war(Javax, true, false), "tomcat-9"),
        (war(Jakarta, true, false), "tomcat-10"),
        (war(Jakarta, true, false), "tomcat-11"),
        (war(Jakarta61, true, true), "tomcat-11"),
    ] {
        let (_, notes) = told(name, &facts);
        assert!(!notes.contains("warning"), "{name}: {notes}");
    }
}

#[test]
fn what_is_assumed_is_told_unless_somebody_named_it() {
    let nothing = ArtifactFacts::War(WarFacts::default());
    let (name, notes) = told(AUTO, &nothing);
    assert_eq!(name, "tomcat-10-java-17");
    assert!(notes.contains("Java 17 is assumed"), "{notes}");
    assert!(notes.contains("warning: nothing in the WAR tells its servlet API"), "{notes}");
    assert_eq!(told("tomcat-9", &nothing).1, "");
}

#[test]
fn a_war_that_starts_by_itself_is_built_as_a_jar_where_no_war_is_taken() {
    let executable = ExecutableFacts {
        main_class: "Launcher".into(),
        java_release: Some(21),
        ..ExecutableFacts::default()
    };
    let facts = WarFacts {
        java_release: Some(11),
        servlet_api: Some(ServletApi::Javax),
        executable: Some(executable),
        not_unpackable: Some("the name of the entry `a\\b` holds a backslash".into()),
        ..WarFacts::default()
    };
    let facts = ArtifactFacts::War(facts);
    let choice = choose("java-25", &facts, false).expect("it suits");
    assert_eq!(choice.kind, ArtifactKind::Jar);
    let error = choose("java-17", &facts, false).expect_err("it is too old");
    assert!(error.contains("needs Java 21"), "{error}");
    let error = choose(AUTO, &facts, false).expect_err("no server unpacks it");
    assert!(error.contains("holds a backslash"), "{error}");
    let named = facts.named("app.jar").expect("it starts by itself");
    let choice = choose(AUTO, &named, false).expect("it suits");
    assert_eq!((choice.environment.name.as_str(), choice.kind), ("java-21", ArtifactKind::Jar));
    let server_only = ArtifactFacts::War(WarFacts::default());
    let error = choose("java-17", &server_only, false).expect_err("it does not start");
    assert!(error.contains("it takes jar or bundle, and the artifact is a war"), "{error}");
    let mismatch = server_only.named("app.JAR").expect_err("it does not start");
    assert!(mismatch.to_string().contains("is a WAR"), "{mismatch}");
}
