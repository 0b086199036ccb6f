// SPDX-License-Identifier: Apache-2.0

//! Whether a base has what a dynamically linked executable asks of it.
//!
//! A dynamic linker refuses a program before its first instruction when a library is missing, or
//! lacks a version that the program was linked with. Both stand in the executable, so they are
//! compared with what the catalogue says of the base before anything is built.

use super::Environment;
use crate::artifact::{ElfFacts, version_series};
use crate::request::Note;

/// The series of the C library's versions.
const GLIBC: &str = "GLIBC";

/// Versions without a number that glibc has had since some release.
const NAMED_VERSIONS: [(&str, &str); 1] = [("GLIBC_ABI_DT_RELR", "2.36")];

/// Says what an executable needs that an environment's own base lacks.
pub(super) fn refusal(environment: &Environment, elf: &ElfFacts) -> Option<String> {
    let needed = elf.interpreter.as_ref()?;
    if let Some(has) = &environment.interpreters
        && !has.contains(needed)
    {
        let musl = needed.starts_with("/lib/ld-musl-");
        let by = if musl { " with musl, as on Alpine Linux," } else { "" };
        return Some(format!(
            "the executable is dynamically linked{by} and needs {needed}, which its base does not \
            have: link it statically, or choose an environment or base that has it"
        ));
    }
    let mut lacks = missing_libraries(environment, elf);
    lacks.extend(newer_versions(environment, elf));
    if lacks.is_empty() {
        return None;
    }
    let beside = match elf.search_path.as_deref().filter(|path| path.contains("$ORIGIN")) {
        Some(path) if lacks.iter().any(|lack| lack.is_library) => format!(
            " (it also looks in {}, and nothing but the executable was uploaded)",
            printable(path)
        ),
        _ => String::new(),
    };
    let remedy = if lacks.iter().all(|lack| lack.is_library) {
        "link them in statically, or give a `base` that has them"
    } else {
        "link it on an older system or statically, or give a `base` that is new enough"
    };
    let lacks: Vec<String> = lacks.into_iter().map(|lack| lack.text).collect();
    Some(format!("the executable needs {}{beside}: {remedy}", lacks.join("; ")))
}

/// Returns what is to be said about an executable that is built for an environment.
pub(super) fn notes(elf: &ElfFacts, base_replaced: bool) -> Vec<Note> {
    let mut notes = Vec::new();
    if base_replaced && elf.interpreter.is_some() {
        let versions = elf.versions.iter().filter(|version| version_series(version).is_some());
        let needs: Vec<String> = elf
            .interpreter
            .iter()
            .chain(&elf.libraries)
            .chain(versions)
            .map(|name| printable(name))
            .collect();
        notes.push(Note::found(format!(
            "the executable needs {}; what the base has is not known",
            needs.join(", ")
        )));
    }
    if let Some(level) = elf.x86_64_level {
        notes.push(Note::found(format!(
            "the executable needs a processor of level x86-64-v{level}, and does not start on \
            older ones"
        )));
    }
    if let Some(linux) = &elf.linux {
        notes.push(Note::found(format!("the executable needs Linux {linux} or newer")));
    }
    notes
}

/// Something that a base lacks.
struct Lack {
    is_library: bool,
    text: String,
}

fn missing_libraries(environment: &Environment, elf: &ElfFacts) -> Vec<Lack> {
    let Some(libraries) = &environment.libraries else { return Vec::new() };
    let linkers: Vec<&str> = environment
        .interpreters
        .iter()
        .flatten()
        .filter_map(|path| path.rsplit_once('/').map(|(_, name)| name))
        .collect();
    let has = |name: &String| libraries.contains(name) || linkers.contains(&name.as_str());
    let missing: Vec<String> =
        elf.libraries.iter().filter(|name| !has(name)).map(|name| printable(name)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let text = format!("{}, which its base does not have", missing.join(", "));
    vec![Lack { is_library: true, text }]
}

fn newer_versions(environment: &Environment, elf: &ElfFacts) -> Vec<Lack> {
    let mut lacks: Vec<Lack> = Vec::new();
    for name in &elf.versions {
        let named = NAMED_VERSIONS.iter().find(|(known, _)| known == name);
        let (series, needed) = match (named, version_series(name)) {
            (Some((_, version)), _) => (GLIBC, numbers(version)),
            (None, Some((series, needed))) => (series, Some(needed)),
            (None, None) => continue,
        };
        let has = match series {
            GLIBC => environment.glibc.as_ref(),
            other => environment.library_versions.get(other),
        };
        let Some(has) = has else { continue };
        if needed <= numbers(has) {
            continue;
        }
        let (of, has) = match series {
            GLIBC => ("glibc ".to_owned(), has.as_str()),
            other => (format!("{other}_"), has.as_str()),
        };
        lacks.push(Lack {
            is_library: false,
            text: format!("{}, and its base has {of}{has}", printable(name)),
        });
    }
    lacks
}

/// Reads a version such as `2.36`.
pub(super) fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

/// Returns a name from an executable as it may stand in a message.
fn printable(name: &str) -> String {
    const LONGEST: usize = 100;
    name.chars().take(LONGEST).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArtifactFacts;
    use crate::environment::Catalogue;
    use crate::platform::Architecture;

    fn linked(libraries: &[&str], versions: &[&str]) -> ElfFacts {
        let mut elf = ElfFacts::new(Architecture::Amd64, Some("/lib64/ld-linux-x86-64.so.2"));
        elf.libraries = libraries.iter().map(|name| (*name).to_owned()).collect();
        elf.versions = versions.iter().map(|name| (*name).to_owned()).collect();
        elf
    }

    fn choose(name: &str, elf: &ElfFacts, base_replaced: bool) -> Result<Vec<Note>, String> {
        let facts = ArtifactFacts::Binary(elf.clone());
        let choice = Catalogue::default().choose(name, &facts, base_replaced);
        choice.map(|choice| choice.notes).map_err(|error| error.to_string())
    }

    #[test]
    fn a_newer_c_library_than_the_base_has_is_refused_with_both_versions() {
        for name in ["auto", "cc"] {
            for version in ["GLIBC_2.39", "GLIBC_2.37"] {
                let error = choose(name, &linked(&["libc.so.6"], &[version]), false);
                let error = error.expect_err("it is newer");
                assert!(error.contains(version) && error.contains("glibc 2.36"), "{error}");
                assert!(error.contains("older system") && error.contains("`base`"), "{error}");
                let with_base = choose("cc", &linked(&["libc.so.6"], &[version]), true);
                let notes = with_base.expect("the base is another one");
                assert!(notes[0].text.contains(version), "{notes:?}");
            }
            for version in ["GLIBC_2.36", "GLIBC_2.2.5", "GLIBC_PRIVATE", "GLIBC_ABI_DT_RELR"] {
                assert_eq!(choose(name, &linked(&["libc.so.6"], &[version]), false), Ok(vec![]));
            }
        }
    }

    #[test]
    fn the_other_libraries_have_versions_too() {
        for (version, has) in [
            ("GLIBCXX_3.4.32", "GLIBCXX_3.4.30"),
            ("CXXABI_1.3.15", "CXXABI_1.3.13"),
            ("GCC_14.0.0", "GCC_12.0.0"),
            ("OPENSSL_3.2.0", "OPENSSL_3.0.9"),
        ] {
            let error = choose("cc", &linked(&["libstdc++.so.6"], &[version]), false);
            let error = error.expect_err("it is newer");
            assert!(error.contains(version) && error.contains(has), "{error}");
            assert_eq!(choose("cc", &linked(&[], &[has]), false), Ok(vec![]));
        }
        assert_eq!(choose("cc", &linked(&[], &["OTHER_9.9"]), false), Ok(vec![]));
    }

    #[test]
    fn a_library_that_the_base_lacks_is_named() {
        let mut elf = linked(&["libz.so.1", "libc.so.6", "libfoo.so"], &["GLIBC_2.34"]);
        for name in ["auto", "cc"] {
            let error = choose(name, &elf, false).expect_err("there is none");
            assert!(error.contains("libz.so.1, libfoo.so"), "{error}");
            assert!(error.contains("statically") && error.contains("`base`"), "{error}");
            assert!(!error.contains("libc.so.6"), "{error}");
        }
        elf.search_path = Some("$ORIGIN/lib".to_owned());
        let error = choose("cc", &elf, false).expect_err("there is none");
        assert!(error.contains("looks in $ORIGIN/lib"), "{error}");
        assert!(choose("cc", &elf, true).is_ok());
        let all = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"];
        let more = ["libstdc++.so.6", "libgomp.so.1", "libssl.so.3", "libcrypto.so.3"];
        let linker = ["ld-linux-x86-64.so.2"];
        let all: Vec<&str> = all.into_iter().chain(more).chain(linker).collect();
        assert_eq!(choose("cc", &linked(&all, &[]), false), Ok(vec![]));
    }

    #[test]
    fn a_file_says_what_another_base_brings() {
        let text = r#"
            [[environment]]
            name = "newer"
            description = "Debian 13 with zlib"
            kinds = ["binary"]
            auto = true
            base = "registry.example/debian:13"
            interpreters = ["/lib64/ld-linux-x86-64.so.2"]
            glibc = "2.41"
            libraries = ["libc.so.6", "libz.so.1"]
            layering = "as-is"
            destination = "/app/{file}"
        "#;
        let catalogue = Catalogue::default().extended(text).expect("it parses");
        let elf = linked(&["libz.so.1", "libc.so.6"], &["GLIBC_2.39"]);
        let choice = catalogue.choose("auto", &ArtifactFacts::Binary(elf), false);
        assert_eq!(choice.expect("it suits").environment.name, "newer");
        for wrong in ["2.x", "", "glibc 2.41"] {
            let error = Catalogue::default().extended(&text.replace("2.41", wrong));
            assert!(error.is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_kernel_and_the_processor_must_be_is_noted() {
        let mut elf = ElfFacts::new(Architecture::Amd64, None);
        (elf.x86_64_level, elf.linux) = (Some(3), Some("6.1.0".to_owned()));
        let notes = choose("static", &elf, false).expect("it suits");
        assert!(notes[0].text.contains("x86-64-v3") && notes[1].text.contains("6.1.0"));
        let musl = ElfFacts::new(Architecture::Amd64, Some("/lib/ld-musl-x86_64.so.1"));
        let error = choose("cc", &musl, false).expect_err("it has none");
        assert!(error.contains("musl") && error.contains("/lib/ld-musl-x86_64.so.1"), "{error}");
    }
}
