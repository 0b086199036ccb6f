// SPDX-License-Identifier: Apache-2.0

//! The servlet API a WAR was written for, from its deployment descriptor or else from its classes.

use std::io::{self, Read};

use slipway_proto::artifact::ServletApi;

use crate::invalid::{Code, InspectError};
use crate::source::Source;
use crate::zip::Archive;

/// Where a WAR has the application's own classes.
pub(super) const CLASSES: &str = "WEB-INF/classes/";

const DESCRIPTOR: &str = "WEB-INF/web.xml";
/// How much of a descriptor is read. A root element after that is not found.
const DESCRIPTOR_START: usize = 256 << 10;

/// How many bytes of classes are inflated in the search for a package name. The first servlet,
/// filter or controller ends the search; only an archive without any reaches the limit.
const MOST_SEARCHED: u64 = 16 << 20;

const JAKARTA: &[u8] = b"jakarta/servlet";
const JAVAX: &[u8] = b"javax/servlet";

/// Returns the servlet API of a WAR, if it can be found.
pub(super) fn api(
    archive: &Archive,
    source: &dyn Source,
) -> Result<Option<ServletApi>, InspectError> {
    if let Some(entry) = archive.find(DESCRIPTOR) {
        let mut start = vec![0; DESCRIPTOR_START];
        let length = archive.read_start(source, entry, &mut start)?;
        if let Some(api) = of_descriptor(&String::from_utf8_lossy(&start[..length])) {
            return Ok(Some(api));
        }
    }
    of_classes(archive, source)
}

/// Reads the root element of `web.xml`. Descriptors before Servlet 2.4 have a document type in
/// front of it instead of a namespace.
fn of_descriptor(text: &str) -> Option<ServletApi> {
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
    if local != "web-app" {
        return None;
    }
    let javax = ["xmlns.jcp.org/xml/ns/javaee", "java.sun.com/xml/ns/"];
    if root.contains("jakarta.ee/xml/ns/jakartaee") {
        let newer = version(root).is_some_and(|version| version >= (6, 1));
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

/// Searches the classes for the name of either package, in the form that constant pools use.
fn of_classes(archive: &Archive, source: &dyn Source) -> Result<Option<ServletApi>, InspectError> {
    let mut left = MOST_SEARCHED;
    for entry in archive.entries() {
        if !entry.name.starts_with(CLASSES) || !entry.name.ends_with(".class") {
            continue;
        }
        let content = archive.open(source, entry)?.take(left);
        left -= entry.size.min(left);
        match search(content) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(InspectError::invalid(Code::CorruptArchive, error.to_string()));
            }
            Err(error) => return Err(InspectError::Read(error)),
        }
        if left == 0 {
            break;
        }
    }
    Ok(None)
}

fn search(mut content: impl Read) -> io::Result<Option<ServletApi>> {
    let overlap = JAKARTA.len() - 1;
    let mut window = vec![0; 16 << 10];
    let mut kept = 0;
    loop {
        let count = content.read(&mut window[kept..])?;
        if count == 0 {
            return Ok(None);
        }
        let filled = &window[..kept + count];
        let holds = |name: &[u8]| filled.windows(name.len()).any(|found| found == name);
        if holds(JAKARTA) {
            return Ok(Some(ServletApi::Jakarta));
        }
        if holds(JAVAX) {
            return Ok(Some(ServletApi::Javax));
        }
        let end = filled.len();
        let start = end.saturating_sub(overlap);
        window.copy_within(start..end, 0);
        kept = end - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};

    fn api_of(entries: impl IntoIterator<Item = TestEntry>) -> Option<ServletApi> {
        let bytes = zip(entries);
        let archive = Archive::read(&bytes).expect("it is read");
        api(&archive, &bytes).expect("it is read")
    }

    fn descriptor(text: &str) -> TestEntry {
        deflated(DESCRIPTOR, text.as_bytes())
    }

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
            assert_eq!(api_of([descriptor(&text)]), expected, "{text}");
        }
    }

    #[test]
    fn without_a_descriptor_the_classes_tell_it() {
        let padding = vec![b'x'; 20_000];
        for (name, expected) in [(JAKARTA, ServletApi::Jakarta), (JAVAX, ServletApi::Javax)] {
            // At any position relative to the edges of the pieces that are read.
            for at in [0, 5, 16_375, 16_384, 19_990] {
                let class = [&padding[..at], name, &padding[at..]].concat();
                let entry = deflated("WEB-INF/classes/a/A.class", &class);
                let other = deflated("WEB-INF/classes/a/B.class", b"nothing");
                assert_eq!(api_of([other, entry]), Some(expected), "{at}");
            }
        }
        let elsewhere = ["WEB-INF/lib/a.class", "WEB-INF/classes/a.txt", "a.class"];
        assert_eq!(api_of(elsewhere.map(|name| stored(name, JAVAX))), None);
        let both = [descriptor("<web-app/>"), stored("WEB-INF/classes/A.class", JAVAX)];
        assert_eq!(api_of(both), Some(ServletApi::Javax));
    }

    #[test]
    fn the_search_ends_after_16_mebibytes() {
        let large = deflated("WEB-INF/classes/A.class", &vec![0; 16 << 20]);
        let servlet = stored("WEB-INF/classes/B.class", JAVAX);
        assert_eq!(api_of([large.clone(), servlet.clone()]), None);
        assert_eq!(api_of([servlet, large]), Some(ServletApi::Javax));
    }

    #[test]
    fn a_class_that_is_corrupt_is_refused() {
        let bytes = zip([TestEntry { crc32: 1, ..stored("WEB-INF/classes/A.class", b"class") }]);
        let archive = Archive::read(&bytes).expect("it is read");
        let error = api(&archive, &bytes).expect_err("its checksum is wrong");
        assert!(matches!(error, InspectError::Invalid(_)), "{error:?}");
    }
}
