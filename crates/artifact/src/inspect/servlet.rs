// SPDX-License-Identifier: Apache-2.0

//! The servlet API that a WAR was written for.
//!
//! What certainly runs decides first: the application's own classes, then its framework's version.
//! Then comes a descriptor that no older container would take, then the libraries, and last a
//! descriptor that a newer container takes as well. The rest is asked only while nothing has
//! decided.

mod known;
mod package;

use slipway_proto::artifact::{ServletApi, ServletFacts};

use super::libraries::{self, Libraries};
use super::library::{Depth, Library};
use super::{WAR_CLASSES, WAR_LIBRARIES, descriptor, java};
use crate::invalid::{InspectError, quoted};
use crate::manifest::Manifest;
use crate::source::Source;
use crate::zip::Archive;
use crate::zip::starts::Starts;
use package::Packages;

/// How much of a deflated library is inflated in the search for a package name.
const LIBRARY_START: Depth = Depth { bytes: 1 << 20, classes: usize::MAX };
/// How many bytes of classes of all libraries are searched: some 50 ms of a processor.
const MOST_SEARCHED: u64 = 16 << 20;
/// How much of a class of a library is searched. Its names stand in front.
const CLASS_START: usize = 64 << 10;

/// How many libraries for another API are named.
const MOST_NAMED: usize = 3;

/// The search in one WAR.
pub(super) struct Search<'a> {
    pub(super) archive: &'a Archive,
    pub(super) source: &'a dyn Source,
    pub(super) manifest: &'a Manifest,
    pub(super) libraries: &'a Libraries,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) api: Option<ServletApi>,
    pub(super) facts: ServletFacts,
    /// What may not work, one sentence each.
    pub(super) warnings: Vec<String>,
}

/// An API and what told it.
type Evidence = (ServletApi, String);

impl Search<'_> {
    /// Finds the API.
    pub(super) fn run(&self, starts: &mut Starts) -> Result<Told, InspectError> {
        let descriptor = descriptor::api(self.archive, self.source)?;
        let framework = self.framework();
        let libraries = self.told_by_libraries();
        let mut warnings = Vec::new();
        let certain = package::of_application(self.archive, self.source)?
            .or_else(|| framework.clone())
            .or_else(|| descriptor.clone().filter(|(api, _)| *api != ServletApi::Javax));
        let is_package_certain = certain.is_some();
        let decided = match certain {
            Some(certain) => Some(certain),
            None => self.vote(libraries.clone(), descriptor.as_ref(), starts, &mut warnings)?,
        };
        let Some((api, by)) = decided else {
            return Ok(Told { api: None, facts: ServletFacts::default(), warnings });
        };
        let package = api.package();
        if is_package_certain {
            let others = libraries.iter().filter(|(other, _)| other.package() != package);
            warnings.extend(others.take(MOST_NAMED).map(|(other, name)| {
                format!("{name} is written for {}, which the server does not have", other.package())
            }));
        }
        if let Some((other, name)) = descriptor.as_ref().filter(|(other, _)| {
            package == ServletApi::Javax.package() && other.package() != package
        }) {
            warnings.push(format!(
                "{name} is written for {}, and {by} for {package}: one of them does not work",
                other.package()
            ));
        }
        let is_newest =
            |(other, _): &&Evidence| other.package() == package && *other == ServletApi::Jakarta61;
        // A framework does not start with an older version; a descriptor only says which it had.
        let version = framework.iter().chain(&libraries).find(is_newest);
        let is_version_certain = version.is_some();
        let newest = version.or(descriptor.as_ref().filter(is_newest)).cloned();
        let (api, by) = newest.unwrap_or((api, by));
        let facts = ServletFacts { told_by: Some(by), is_package_certain, is_version_certain };
        Ok(Told { api: Some(api), facts, warnings })
    }

    /// Returns the API of the framework that the manifest names (system requirements of Spring
    /// Boot: Servlet 5.0 for 3, Servlet 6.1 for 4).
    fn framework(&self) -> Option<Evidence> {
        let (version, major) = java::spring_boot(self.manifest)?;
        let api = match major {
            0..=2 => ServletApi::Javax,
            3 => ServletApi::Jakarta,
            _ => ServletApi::Jakarta61,
        };
        Some((api, format!("Spring Boot {version}")))
    }

    /// Returns what the names of known libraries tell, and the initializers in the others.
    fn told_by_libraries(&self) -> Vec<Evidence> {
        let mut told: Vec<Evidence> = Vec::new();
        for entry in libraries::of(self.archive, |name| name.starts_with(WAR_LIBRARIES)) {
            if let Some(api) = known::api(&entry.name) {
                told.push((api, quoted(&entry.name)));
            }
        }
        let initializers = &self.libraries.initializers;
        for (api, name) in [ServletApi::Javax, ServletApi::Jakarta].into_iter().zip(initializers) {
            let Some(name) = name else { continue };
            if told.iter().all(|(_, known)| known != name) {
                told.push((api, name.clone()));
            }
        }
        told
    }

    /// Lets the libraries decide: those that must know, else all that name a package.
    fn vote(
        &self,
        told: Vec<Evidence>,
        descriptor: Option<&Evidence>,
        starts: &mut Starts,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Evidence>, InspectError> {
        let votes = if told.is_empty() { self.named_in_libraries(starts)? } else { told };
        let of = |package: ServletApi| {
            let mut votes = votes.iter().filter(move |(api, _)| api.package() == package.package());
            votes.next().map(|first| (1 + votes.count(), first))
        };
        let (javax, jakarta) = (of(ServletApi::Javax), of(ServletApi::Jakarta));
        let (javax_votes, javax, jakarta_votes, jakarta) = match (javax, jakarta) {
            (None, None) => return Ok(descriptor.cloned()),
            (Some((_, only)), None) | (None, Some((_, only))) => return Ok(Some(only.clone())),
            (Some((j, javax)), Some((k, jakarta))) => (j, javax, k, jakarta),
        };
        // Only a descriptor that decides nothing alone gets here.
        let decided = match descriptor {
            Some(descriptor) => descriptor.clone(),
            None if javax_votes > jakarta_votes => javax.clone(),
            None => jakarta.clone(),
        };
        warnings.push(format!(
            "its libraries disagree on the servlet API: {} is written for javax.servlet and {} for \
            jakarta.servlet; {} was chosen",
            javax.1,
            jakarta.1,
            decided.0.package()
        ));
        Ok(Some(decided))
    }

    /// Searches the classes of the libraries for the packages.
    fn named_in_libraries(&self, starts: &mut Starts) -> Result<Vec<Evidence>, InspectError> {
        let mut votes = Vec::new();
        let (mut left, mut to_inflate) = (MOST_SEARCHED, libraries::MOST_INFLATED);
        let mut buffer = vec![0; CLASS_START];
        for entry in libraries::of(self.archive, |name| name.starts_with(WAR_LIBRARIES)) {
            if left == 0 {
                break;
            }
            let library =
                Library::open(self.archive, self.source, entry, LIBRARY_START, &mut to_inflate)?;
            let mut api = None;
            let read = library.search(starts, &mut buffer, left, |class| {
                api = Packages::in_class(class).api();
                api.is_some()
            })?;
            left -= read.min(left);
            votes.extend(api.map(|api| (api, quoted(&entry.name))));
        }
        Ok(votes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestEntry, deflated, stored, zip};

    const OLD: &str = "<web-app xmlns=\"http://xmlns.jcp.org/xml/ns/javaee\" version=\"3.1\"/>";
    const NEW: &str = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"5.0\"/>";
    const NEWEST: &str = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"6.1\"/>";
    const JAVAX: &[u8] = b"\xca\xfe\xba\xbe\0\0\0\x34 javax/servlet/http/HttpServlet";
    const JAKARTA: &[u8] = b"\xca\xfe\xba\xbe\0\0\0\x34 jakarta/servlet/http/HttpServlet";

    fn told(boot: &str, entries: impl IntoIterator<Item = TestEntry>) -> Told {
        let bytes = zip(entries);
        let archive = Archive::read(&bytes).expect("it is read");
        let text = format!("Spring-Boot-Version: {boot}\n");
        let manifest = Manifest::parse(if boot.is_empty() { b"" } else { text.as_bytes() });
        let mut starts = Starts::default();
        let is_library = |name: &str| name.starts_with(WAR_LIBRARIES);
        let libraries = Libraries::look(&archive, &bytes, &mut starts, is_library).expect("read");
        Search { archive: &archive, source: &bytes, manifest: &manifest, libraries: &libraries }
            .run(&mut starts)
            .expect("it is read")
    }

    fn own(class: &[u8]) -> TestEntry {
        deflated("WEB-INF/classes/a/S.class", class)
    }

    fn web_xml(text: &str) -> TestEntry {
        deflated("WEB-INF/web.xml", text.as_bytes())
    }

    fn library(name: &str, class: &[u8]) -> TestEntry {
        stored(&format!("WEB-INF/lib/{name}"), &zip([deflated("a/S.class", class)]))
    }

    fn decided(told: &Told) -> (Option<ServletApi>, bool, bool) {
        (told.api, told.facts.is_package_certain, told.facts.is_version_certain)
    }

    #[test]
    fn what_certainly_runs_decides_before_what_may_be_older() {
        use ServletApi::{Jakarta, Jakarta61, Javax};
        for (boot, entries, expected) in [
            ("", vec![own(JAKARTA), web_xml(OLD)], (Some(Jakarta), true, false)),
            ("", vec![own(JAVAX), web_xml(NEW)], (Some(Javax), true, false)),
            ("", vec![own(JAKARTA), web_xml(NEWEST)], (Some(Jakarta61), true, false)),
            ("2.7.18", vec![own(b"Spring")], (Some(Javax), true, false)),
            ("2.7.18", vec![web_xml(OLD), library("a.jar", JAKARTA)], (Some(Javax), true, false)),
            ("3.3.4", vec![web_xml(OLD)], (Some(Jakarta), true, false)),
            ("4.0.0", vec![web_xml(OLD)], (Some(Jakarta61), true, true)),
            ("4.0.0", vec![own(JAKARTA)], (Some(Jakarta61), true, true)),
            ("", vec![own(JAKARTA), library("a.jar", JAVAX)], (Some(Jakarta), true, false)),
            ("", vec![web_xml(NEW), library("a.jar", JAVAX)], (Some(Jakarta), true, false)),
            ("", vec![web_xml(OLD), library("a.jar", JAKARTA)], (Some(Jakarta), false, false)),
            ("", vec![library("a.jar", JAVAX)], (Some(Javax), false, false)),
            ("", vec![library("spring-web-5.3.31.jar", b"")], (Some(Javax), false, false)),
            ("", vec![library("spring-web-7.0.1.jar", b"")], (Some(Jakarta61), false, true)),
            (
                "",
                vec![own(JAKARTA), library("spring-web-7.0.1.jar", b"")],
                (Some(Jakarta61), true, true),
            ),
            ("", vec![web_xml(OLD)], (Some(Javax), false, false)),
            ("", vec![web_xml("<web-app/>")], (None, false, false)),
        ] {
            let told = told(boot, entries.clone());
            assert_eq!(decided(&told), expected, "{boot} {entries:?} {told:?}");
            assert_eq!(told.facts.told_by.is_some(), told.api.is_some());
        }
    }

    #[test]
    fn an_initializer_in_a_library_tells_the_api() {
        for (package, api) in [("javax", ServletApi::Javax), ("jakarta", ServletApi::Jakarta)] {
            let name = format!("META-INF/services/{package}.servlet.ServletContainerInitializer");
            let library = zip([stored(&name, b"a.B")]);
            for entry in [
                stored("WEB-INF/lib/spring.jar", &library),
                deflated("WEB-INF/lib/spring.jar", &library),
            ] {
                let told = told("", [entry]);
                assert_eq!(told.api, Some(api));
                assert_eq!(told.facts.told_by.as_deref(), Some("`WEB-INF/lib/spring.jar`"));
            }
        }
    }

    #[test]
    fn where_libraries_disagree_most_of_them_decide_and_it_is_told() {
        let libraries = [library("a.jar", JAVAX), library("b.jar", JAKARTA)];
        let even = told("", libraries.clone());
        assert_eq!(even.api, Some(ServletApi::Jakarta));
        assert!(even.warnings[0].contains("`WEB-INF/lib/a.jar`"), "{even:?}");
        let more = told("", libraries.clone().into_iter().chain([library("c.jar", JAVAX)]));
        assert_eq!(more.api, Some(ServletApi::Javax));
        let old = told("", libraries.into_iter().chain([web_xml(OLD)]));
        assert_eq!(old.api, Some(ServletApi::Javax), "the descriptor settles it");
        let both = [JAVAX, JAKARTA].concat();
        assert_eq!(told("", [library("a.jar", &both)]).api, None, "it has an adapter for each");
    }

    #[test]
    fn what_does_not_work_is_told() {
        let old = told("", [own(JAVAX), web_xml(NEW)]);
        assert!(
            old.warnings.concat().contains("`WEB-INF/web.xml` is written for jakarta"),
            "{old:?}"
        );
        let mixed = told("", [own(JAKARTA), library("spring-web-5.3.31.jar", JAVAX)]);
        assert!(mixed.warnings.concat().contains("spring-web-5.3.31.jar` is written for javax"));
        assert_eq!(told("", [own(JAKARTA), web_xml(OLD)]).warnings, [""; 0]);
    }
}
