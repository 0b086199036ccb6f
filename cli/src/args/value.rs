// SPDX-License-Identifier: Apache-2.0

//! Values of options that have a form of their own.

use std::path::PathBuf;

use slipway_proto::Platform;
use slipway_proto::api::StateName;
use url::Url;

use super::Target;

/// Reads the address of a dispatcher.
pub(super) fn server(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("write http://HOST:PORT or https://HOST".to_owned()),
    }
}

/// Reads `KEY=VALUE`; the value may hold further `=`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// The words of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// Reads a command: words as a shell divides them, or a list in JSON.
pub(super) fn words(text: &str) -> Result<Words, String> {
    let words = match text.starts_with('[') {
        true => serde_json::from_str(text).ok(),
        false => Some(slipway_artifact::words::split(text).map_err(|error| error.to_string())?),
    };
    words.filter(|words: &Vec<String>| !words.is_empty()).map(Words).ok_or_else(|| {
        "write words as for a shell, or a list of texts as [\"java\", \"-version\"]".to_owned()
    })
}

/// Reads `PLATFORM=FILE`.
pub(super) fn platform_file(text: &str) -> Result<(Platform, PathBuf), String> {
    let (platform, path) = text.split_once('=').unwrap_or((text, ""));
    if path.is_empty() {
        return Err("write PLATFORM=FILE, as in linux/arm64=./app-arm64".to_owned());
    }
    let platform = platform.parse::<Platform>().map_err(|error| error.to_string())?;
    Ok((platform, PathBuf::from(path)))
}

/// Reads the name of a state.
pub(super) fn state(text: &str) -> Result<StateName, String> {
    StateName::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let names: Vec<_> = StateName::ALL.iter().map(|state| state.as_str()).collect();
        format!("write one of {}", names.join(", "))
    })
}

/// Reads a duration in whole seconds: `90`, `90s`, `10m`, `1h`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((index, _)) => text.split_at(index),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or_else(|| "write seconds, or a number followed by s, m or h".to_owned())
}

/// Reads the build of a dead letter: one token of a subject. It is usually an id, but the message
/// need not be a request of ours.
pub(super) fn letter(text: &str) -> Result<String, String> {
    let ends_token = |c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.contains(ends_token) {
        return Err("write the build as `slipway dead list` shows it".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads where a local build writes its image.
pub(super) fn target(text: &str) -> Result<Target, String> {
    match text.split_once(':') {
        Some(("oci", path)) if !path.is_empty() => Ok(Target::OciLayout(PathBuf::from(path))),
        Some(("docker-archive", path)) if !path.is_empty() => {
            Ok(Target::DockerArchive(PathBuf::from(path)))
        }
        _ => Err("write oci:DIRECTORY or docker-archive:FILE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("2h"), Ok(7200));
        for text in ["", "m", "-1", "1d", "1.5m", "99999999999999999999", "9999999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_may_hold_what_separates_it_from_its_key() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("=b").is_err());
        assert!(pair("A").is_err());
    }

    #[test]
    fn a_command_is_words_or_a_list() {
        let split = |text| words(text).map(|words| words.0.join("|"));
        assert_eq!(split(" java  -cp {artifact} M ").as_deref(), Ok("java|-cp|{artifact}|M"));
        assert_eq!(split(r#"["a b", ""]"#).as_deref(), Ok("a b|"));
        for text in ["", " ", "[]", "[1]", "[\"a\""] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_dead_letter_is_named_by_one_token() {
        for text in ["01890a5d-ac96-774b-bcce-b302099a8057", "nonsense"] {
            assert_eq!(letter(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "..", "a.b", "a b", ">"] {
            assert!(letter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_are_a_kind_and_a_path() {
        assert_eq!(target("oci:out/a:b"), Ok(Target::OciLayout("out/a:b".into())));
        assert_eq!(target("docker-archive:x.tar"), Ok(Target::DockerArchive("x.tar".into())));
        for text in ["oci:", "oci", "docker:x", "x.tar"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
