// SPDX-License-Identifier: Apache-2.0

use super::*;

fn written(text: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("it can be written");
    (directory, path)
}

fn credentials(text: &str, name: &str) -> Credentials {
    let (_directory, path) = written(text, name);
    Credentials::load(&[path]).expect("it loads")
}

fn find(credentials: &Credentials, reference: &str) -> Result<Found, CredentialsError> {
    credentials.find(&reference.parse().expect("a reference"), None)
}

fn user(credentials: &Credentials, reference: &str) -> Option<String> {
    match find(credentials, reference).expect("it is found").login {
        Login::Password { user, .. } => Some(user),
        Login::Identity(token) => Some(token),
        Login::Anonymous => None,
    }
}

fn auth_of(user: &str) -> String {
    format!(r#"{{"auths": {{"r.example": {{"username": "{user}", "password": "x"}}}}}}"#)
}

#[test]
fn the_longest_matching_entry_wins() {
    // dTpw is base64 of `u:p`.
    let text = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "dTpw"},
        "r.example": {"username": "host", "password": "x"},
        "r.example/team": {"username": "team", "password": "x"},
        "r.example/team/empty": {},
        "azure.example": {"auth": "dTpw", "identitytoken": "t"},
        "helper.example": {}
    }}"#;
    let credentials = credentials(text, "config.json");
    assert_eq!(user(&credentials, "nginx").as_deref(), Some("u"));
    assert_eq!(user(&credentials, "r.example/other/app").as_deref(), Some("host"));
    assert_eq!(user(&credentials, "r.example/team/app").as_deref(), Some("team"));
    assert_eq!(user(&credentials, "r.example/team/empty/app").as_deref(), Some("team"));
    assert_eq!(user(&credentials, "r.example/teammate/app").as_deref(), Some("host"));
    assert_eq!(user(&credentials, "azure.example/app").as_deref(), Some("t"));
    assert_eq!(user(&credentials, "helper.example/app"), None);
}

#[test]
fn a_named_secret_is_only_taken_from_its_own_file() {
    let credentials = credentials(r#"{"auths": {}}"#, "dockerhub.json");
    let reference = "nginx".parse().expect("a reference");
    let named = |name: &str| credentials.find(&reference, Some(&name.parse().expect("a name")));
    assert!(named("dockerhub").is_ok());
    assert!(matches!(named("other"), Err(CredentialsError::UnknownSecret(_))));
}

#[test]
fn an_entry_that_cannot_be_read_matters_when_its_registry_is_asked() {
    for entry in [r#"{"auth": "?"}"#, r#"{"auth": 7}"#, r#"{"auth": "dXA="}"#, "7", "[]"] {
        let text =
            format!(r#"{{"auths": {{"bad.example": {entry}, "r.example": {{"auth": "dTpw"}}}}}}"#);
        let credentials = credentials(&text, "config.json");
        assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("u"), "{entry}");
        assert_eq!(user(&credentials, "other.example/app"), None, "{entry}");
        let error = find(&credentials, "bad.example/app").err().expect("it is malformed");
        assert!(error.to_string().contains("bad.example"), "{error}");
    }
}

#[test]
fn an_empty_entry_is_none() {
    for entry in ["{}", "null", r#"{"auth": ""}"#, r#"{"auth": null}"#, r#"{"username": "u"}"#] {
        let text = format!(r#"{{"auths": {{"r.example": {entry}}}}}"#);
        let credentials = credentials(&text, "config.json");
        assert_eq!(user(&credentials, "r.example/app"), None, "{entry}");
    }
    for text in ["{}", r#"{"auths": null}"#, r#"{"credsStore": ""}"#] {
        let found = find(&credentials(text, "config.json"), "r.example/app").expect("none");
        assert!(found.absence.contains("has no credentials for r.example"), "{}", found.absence);
    }
}

#[test]
fn a_registry_that_is_left_to_a_helper_is_told_with_the_helper() {
    let text = r#"{"auths": {"r.example": {}, "own.example": {"auth": "dTpw"}},
        "credsStore": "desktop", "credHelpers": {"ecr.example": "ecr-login"}}"#;
    let credentials = credentials(text, "config.json");
    let absence = |name: &str| find(&credentials, name).expect("no error").absence;
    for (name, helper) in
        [("r.example/a", "desktop"), ("new.example/a", "desktop"), ("ecr.example/a", "ecr-login")]
    {
        let absence = absence(name);
        let registry = name.trim_end_matches("/a");
        let expected = format!(
            "config.json leaves {registry} to the helper `{helper}`, which Slipway does not run"
        );
        assert!(absence.contains(&expected), "{absence}");
    }
    assert_eq!(user(&credentials, "own.example/a").as_deref(), Some("u"));
}

#[test]
fn a_good_entry_of_a_later_file_serves_where_an_earlier_one_has_none() {
    let (_one, bad) = written(r#"{"auths": {"r.example": {"auth": "?"}}}"#, "config.json");
    let (_two, good) = written(&auth_of("good"), "config.json");
    let credentials = Credentials::load(&[bad, good]).expect("it loads");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("good"));
}

#[test]
fn a_file_that_is_replaced_is_read_again() {
    let (directory, path) = written(&auth_of("old"), "config.json");
    let credentials = Credentials::load(std::slice::from_ref(&path)).expect("it loads");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("old"));
    assert_eq!(credentials.generation(), 0);
    let next = directory.path().join("next");
    std::fs::write(&next, auth_of("renamed")).expect("it can be written");
    std::fs::rename(&next, &path).expect("it can be renamed");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("renamed"));
    assert_eq!(credentials.generation(), 1);
    // Written in place, of the same size: the time may not tell.
    std::fs::write(&path, auth_of("written")).expect("it can be written");
    credentials.read_again();
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("written"));
    assert_eq!(credentials.generation(), 2);
    credentials.read_again();
    assert_eq!(credentials.generation(), 2, "nothing new");
}

#[test]
fn a_secret_that_kubernetes_swaps_is_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let point = |version: &str| {
        std::fs::create_dir(at(version)).expect("a directory");
        std::fs::write(at(version).join("config.json"), auth_of(version)).expect("written");
        std::os::unix::fs::symlink(version, at("..data_tmp")).expect("a link");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("the swap");
    };
    point("..first");
    std::os::unix::fs::symlink("..data/config.json", at("config.json")).expect("a link");
    let credentials = Credentials::load(&[at("config.json")]).expect("it loads");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("..first"));
    point("..second");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("..second"));
}

#[test]
fn a_file_that_is_half_written_or_gone_leaves_the_credentials_as_they_were() {
    let (_directory, path) = written(&auth_of("old"), "config.json");
    let credentials = Credentials::load(std::slice::from_ref(&path)).expect("it loads");
    for text in ["", r#"{"auths": {"r.exa"#, "[]"] {
        std::fs::write(&path, text).expect("it can be written");
        credentials.read_again();
        assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("old"), "{text}");
    }
    std::fs::remove_file(&path).expect("it can be removed");
    credentials.read_again();
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("old"));
    assert_eq!(credentials.generation(), 0);
    std::fs::write(&path, auth_of("new")).expect("it can be written");
    assert_eq!(user(&credentials, "r.example/app").as_deref(), Some("new"));
}
