// SPDX-License-Identifier: Apache-2.0

//! What the descriptors of a WAR tell about its servlet API.
//!
//! A container takes every older descriptor (Servlet 6.0, 14.3), so one with an old namespace is
//! only a hint. One with a new namespace is written by nobody who runs an old container.

use slipway_proto::artifact::ServletApi;

use crate::invalid::InspectError;
use crate::source::Source;
use crate::zip::Archive;

const DESCRIPTORS: [&str; 3] = ["WEB-INF/web.xml", "WEB-INF/faces-config.xml", "WEB-INF/beans.xml"];

/// How much of a descriptor is read. A root element after that is not found.
const LONGEST_START: usize = 256 << 10;

/// Returns the newest API that a descriptor names, and the quoted name of the descriptor.
pub(super) fn api(
    archive: &Archive,
    source: &dyn Source,
) -> Result<Option<(ServletApi, String)>, InspectError> {
    let mut newest: Option<(ServletApi, String)> = None;
    for name in DESCRIPTORS {
        let Some(entry) = archive.find(name) else { continue };
        let length = usize::try_from(entry.size).unwrap_or(usize::MAX).min(LONGEST_START);
        let mut start = vec![0; length];
        archive.read_start(source, entry, &mut start)?;
        let Some(api) = read(&String::from_utf8_lossy(&start)) else { continue };
        let rank = |api| match api {
            ServletApi::Javax => 0,
            ServletApi::Jakarta => 1,
            ServletApi::Jakarta61 => 2,
        };
        if newest.as_ref().is_none_or(|(known, _)| rank(*known) < rank(api)) {
            newest = Some((api, format!("`{name}`")));
        }
    }
    Ok(newest)
}

/// Reads the root element of a descriptor. Those before Servlet 2.4 have a document type in front
/// of it instead of a namespace.
fn read(text: &str) -> Option<ServletApi> {
    let mut rest = text;
    let mut document_type = "";
    let root = loop {
        rest = &rest[rest.find('<')?..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = &comment[comment.find("-->")?..];
            continue;
        }
        let (tag, behind) = rest.split_at(rest.find('>')?);
        match tag.as_bytes().get(1)? {
            b'?' => {}
            b'!' => document_type = tag,
            _ => break tag,
        }
        rest = behind;
    };
    let name = root[1..].split(|character: char| character.is_whitespace() || character == '/');
    let local = name.into_iter().next()?.rsplit(':').next()?;
    if !["web-app", "faces-config", "beans"].contains(&local) {
        return None;
    }
    let javax = ["xmlns.jcp.org/xml/ns/javaee", "java.sun.com/xml/ns/"];
    if root.contains("jakarta.ee/xml/ns/jakartaee") {
        let newer = local == "web-app" && version(root).is_some_and(|version| version >= (6, 1));
        return Some(if newer { ServletApi::Jakarta61 } else { ServletApi::Jakarta });
    }
    let by_namespace = javax.iter().any(|namespace| root.contains(namespace));
    (by_namespace || document_type.contains("java.sun.com/")).then_some(ServletApi::Javax)
}

/// Returns the number in the attribute `version`.
fn version(tag: &str) -> Option<(u16, u16)> {
    let value = tag.match_indices("version").find_map(|(at, word)| {
        let before = tag[..at].chars().next_back()?;
        let value = tag[at + word.len()..].trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        before.is_whitespace().then(|| value[1..].split(quote).next())?
    })?;
    let (major, minor) = value.trim().split_once('.').unwrap_or((value.trim(), "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deflated, zip};

    #[test]
    fn the_descriptor_names_the_api() {
        let schema = r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance""#.to_owned()
            + r#" xsi:schemaLocation="x web-app_6_1.xsd""#;
        let jakarta = |version: &str| {
            format!(
                "<?xml version=\"1.0\"?>\n<!-- <web-app version=\"2.3\"> -->\n<web-app {schema}\n \
                xmlns='https://jakarta.ee/xml/ns/jakartaee' {version}>"
            )
        };
        let cases = [
            (jakarta("version=\"5.0\""), Some(ServletApi::Jakarta)),
            (jakarta("version=\"6.0\""), Some(ServletApi::Jakarta)),
            (jakarta("version = '6.1' "), Some(ServletApi::Jakarta61)),
            (jakarta("version=\"7.0\""), Some(ServletApi::Jakarta61)),
            (jakarta("version=\"10\""), Some(ServletApi::Jakarta61)),
            (jakarta(""), Some(ServletApi::Jakarta)),
            (
                "<web-app xmlns=\"http://xmlns.jcp.org/xml/ns/javaee\" version=\"4.0\"/>".into(),
                Some(ServletApi::Javax),
            ),
            (
                "<j:web-app xmlns:j=\"http://java.sun.com/xml/ns/j2ee\"/>".into(),
                Some(ServletApi::Javax),
            ),
            (
                "<!DOCTYPE web-app PUBLIC \"x\" \
                \"http://java.sun.com/dtd/web-app_2_3.dtd\"><web-app>"
                    .into(),
                Some(ServletApi::Javax),
            ),
            ("<web-app/>".into(), None),
            ("<web-apps xmlns=\"http://java.sun.com/xml/ns/j2ee\"/>".into(), None),
            ("<!-- <web-app xmlns=\"http://java.sun.com/xml/ns/j2ee\"/>".into(), None),
            ("<".into(), None),
            ("<é>".into(), None),
            (String::new(), None),
        ];
        for (text, expected) in cases {
            let bytes = zip([deflated(DESCRIPTORS[0], text.as_bytes())]);
            let archive = Archive::read(&bytes).expect("it is read");
            let found = api(&archive, &bytes).expect("it is read");
            assert_eq!(found.map(|(api, _)| api), expected, "{text}");
        }
    }

    #[test]
    fn of_several_descriptors_the_newest_counts() {
        let old = "<web-app xmlns=\"http://java.sun.com/xml/ns/javaee\" version=\"2.5\"/>";
        let new = "<beans xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"6.1\"/>";
        let spring = "<beans xmlns=\"http://www.springframework.org/schema/beans\"/>";
        let found = |beans: &str| {
            let entries = [deflated(DESCRIPTORS[0], old.as_bytes())];
            let bytes =
                zip(entries.into_iter().chain([deflated(DESCRIPTORS[2], beans.as_bytes())]));
            let archive = Archive::read(&bytes).expect("it is read");
            api(&archive, &bytes).expect("it is read").expect("one tells it")
        };
        assert_eq!(found(new), (ServletApi::Jakarta, "`WEB-INF/beans.xml`".into()));
        assert_eq!(found(spring), (ServletApi::Javax, "`WEB-INF/web.xml`".into()));
    }
}
