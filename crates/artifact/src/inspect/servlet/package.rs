// SPDX-License-Identifier: Apache-2.0

//! Which package of the servlet API a class or a page names.

use std::io::{self, Read};

use slipway_proto::artifact::ServletApi;

use super::{Evidence, WAR_CLASSES};
use crate::inspect::library::INITIALIZERS;
use crate::invalid::{Code, InspectError, quoted};
use crate::source::Source;
use crate::zip::Archive;

/// How many bytes of classes are inflated in the search for a package name. The first servlet,
/// filter or controller ends the search; only an archive without any reaches the limit.
const MOST_SEARCHED: u64 = 16 << 20;

/// How many bytes are searched at once.
const WINDOW: usize = 16 << 10;

/// The packages that some bytes name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Packages {
    javax: bool,
    jakarta: bool,
}

/// The names of packages as a kind of file writes them.
#[derive(Clone, Copy)]
struct Names {
    javax: &'static [&'static [u8]],
    jakarta: &'static [&'static [u8]],
}

/// In the constant pool of a class.
const IN_CLASSES: Names = Names { javax: &[b"javax/servlet"], jakarta: &[b"jakarta/servlet"] };
/// In the source of a page.
const IN_PAGES: Names = Names { javax: &[b"javax.servlet."], jakarta: &[b"jakarta.servlet."] };
/// Packages of the same platform, all of which were renamed with the servlet API (Jakarta EE 9).
/// `javax.inject` and `javax.annotation` are not here, because they live on.
const RELATED: Names = Names {
    javax: &[b"javax/ws/rs/", b"javax/faces/", b"javax/enterprise/", b"javax/websocket/"],
    jakarta: &[b"jakarta/ws/rs/", b"jakarta/faces/", b"jakarta/enterprise/", b"jakarta/websocket/"],
};

/// The longest name and one byte less.
const OVERLAP: usize = b"jakarta/enterprise/".len() - 1;

impl Packages {
    /// Searches the bytes of a class.
    pub(super) fn in_class(class: &[u8]) -> Self {
        Self::named(class, IN_CLASSES)
    }

    fn named(bytes: &[u8], names: Names) -> Self {
        let mut found = Self::default();
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'j') {
            let starts = |name: &&[u8]| bytes[at..].starts_with(name);
            found.javax |= names.javax.iter().any(starts);
            found.jakarta |= names.jakarta.iter().any(starts);
        }
        found
    }

    /// Returns the API, unless both packages are named, as in an adapter, or none.
    pub(super) fn api(self) -> Option<ServletApi> {
        match (self.javax, self.jakarta) {
            (true, false) => Some(ServletApi::Javax),
            (false, true) => Some(ServletApi::Jakarta),
            _ => None,
        }
    }
}

/// Returns the API that the application's own initializers, classes or pages name.
pub(super) fn of_application(
    archive: &Archive,
    source: &dyn Source,
) -> Result<Option<Evidence>, InspectError> {
    for (service, api) in INITIALIZERS.iter().zip([ServletApi::Javax, ServletApi::Jakarta]) {
        let name = format!("{WAR_CLASSES}{}", String::from_utf8_lossy(service));
        if archive.find(&name).is_some() {
            return Ok(Some((api, quoted(&name))));
        }
    }
    let is_class = |name: &str| name.starts_with(WAR_CLASSES) && name.ends_with(".class");
    let [in_class, related] = search(archive, source, is_class, [IN_CLASSES, RELATED])?;
    if in_class.is_some() {
        return Ok(in_class);
    }
    let is_page = |name: &str| {
        let extension = name.rsplit('.').next().unwrap_or_default();
        ["jsp", "jspx", "jspf", "tag"].iter().any(|page| extension.eq_ignore_ascii_case(page))
    };
    let [in_page, _] = search(archive, source, is_page, [IN_PAGES, IN_PAGES])?;
    Ok(in_page.or(related))
}

/// Searches files for the packages of two sets of names, until one names a package of the first set.
fn search(
    archive: &Archive,
    source: &dyn Source,
    wanted: impl Fn(&str) -> bool,
    names: [Names; 2],
) -> Result<[Option<Evidence>; 2], InspectError> {
    let mut found = [None, None];
    let mut left = MOST_SEARCHED;
    for entry in archive.entries().iter().filter(|entry| wanted(&entry.name)) {
        let content = archive.open(source, entry)?.take(left);
        left -= entry.size.min(left);
        let packages = packages(content, names).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                InspectError::invalid(Code::CorruptArchive, error.to_string())
            }
            _ => InspectError::Read(error),
        })?;
        for (found, packages) in found.iter_mut().zip(packages) {
            if let (None, Some(api)) = (&found, packages.api()) {
                *found = Some((api, quoted(&entry.name)));
            }
        }
        if found[0].is_some() || left == 0 {
            break;
        }
    }
    Ok(found)
}

/// Searches content of any length.
fn packages(mut content: impl Read, names: [Names; 2]) -> io::Result<[Packages; 2]> {
    let mut window = vec![0; WINDOW];
    let (mut kept, mut found) = (0, [Packages::default(); 2]);
    loop {
        let count = content.read(&mut window[kept..])?;
        if count == 0 {
            return Ok(found);
        }
        let end = kept + count;
        for (found, names) in found.iter_mut().zip(names) {
            let named = Packages::named(&window[..end], names);
            found.javax |= named.javax;
            found.jakarta |= named.jakarta;
        }
        let start = end.saturating_sub(OVERLAP);
        window.copy_within(start..end, 0);
        kept = end - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};

    const JAVAX: &[u8] = b"javax/servlet";
    const JAKARTA: &[u8] = b"jakarta/servlet";

    fn api_of(entries: impl IntoIterator<Item = TestEntry>) -> Option<ServletApi> {
        let bytes = zip(entries);
        let archive = Archive::read(&bytes).expect("it is read");
        of_application(&archive, &bytes).expect("it is read").map(|(api, _)| api)
    }

    #[test]
    fn a_class_names_the_package() {
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
    }

    #[test]
    fn a_class_that_names_both_packages_is_passed_over() {
        let both = [JAVAX, &[b'x'; 20_000], JAKARTA].concat();
        let both = deflated("WEB-INF/classes/Adapter.class", &both);
        assert_eq!(api_of([both.clone()]), None);
        let one = deflated("WEB-INF/classes/B.class", JAKARTA);
        assert_eq!(api_of([both, one]), Some(ServletApi::Jakarta));
    }

    #[test]
    fn a_page_and_an_initializer_of_the_application_name_the_package_too() {
        let page = |text: &str| deflated("admin/List.JSP", text.as_bytes());
        let import = "<%@ page import=\"javax.servlet.http.Cookie\" %>";
        assert_eq!(api_of([page(import)]), Some(ServletApi::Javax));
        assert_eq!(api_of([page("${jakarta.servlet.error}")]), Some(ServletApi::Jakarta));
        assert_eq!(api_of([page("<%= 1 %>")]), None);
        let service = "WEB-INF/classes/META-INF/services/javax.servlet.ServletContainerInitializer";
        assert_eq!(api_of([stored(service, b"a.B")]), Some(ServletApi::Javax));
    }

    #[test]
    fn what_was_renamed_with_the_servlet_api_tells_it_too() {
        let class = |text: &str| deflated("WEB-INF/classes/A.class", text.as_bytes());
        assert_eq!(api_of([class("Ljavax/ws/rs/Path;")]), Some(ServletApi::Javax));
        assert_eq!(api_of([class("Ljakarta/enterprise/x;")]), Some(ServletApi::Jakarta));
        assert_eq!(api_of([class("Ljavax/inject/Inject; Ljavax/annotation/x;")]), None);
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
        let error = of_application(&archive, &bytes).expect_err("its checksum is wrong");
        assert!(matches!(error, InspectError::Invalid(_)), "{error:?}");
    }
}
