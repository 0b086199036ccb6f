// SPDX-License-Identifier: Apache-2.0

//! The words that start an exploded JAR as `java -jar` starts the JAR itself.
//!
//! Some attributes of a manifest count for `java -jar` alone, so an exploded JAR needs options in
//! their place (JAR File Specification, "Main Attributes"; JEP 261, 472 and 500). An attribute for
//! which there is no option keeps the JAR in one piece.

use slipway_artifact::manifest::Manifest;

/// The first release with modules, and with `@` files (JDK tool specifications, "java").
const MODULES: u16 = 9;

/// Attributes that allow code of the class path something, the first release whose `java -jar` reads
/// them, and the option. Their one value is `ALL-UNNAMED`.
const PERMISSIONS: [(&str, u16, &str); 2] = [
    ("Enable-Native-Access", 22, "--enable-native-access"),
    ("Enable-Final-Field-Mutation", 26, "--enable-final-field-mutation"),
];

/// Attributes with a list of packages, and their options.
const PACKAGES: [(&str, &str); 2] =
    [("Add-Exports", "--add-exports"), ("Add-Opens", "--add-opens")];

const ALL_UNNAMED: &str = "ALL-UNNAMED";

/// A JVM without modules takes no option that it does not know, unless it has this one.
const IGNORE_UNKNOWN: &str = "-XX:+IgnoreUnrecognizedVMOptions";

/// Longer lines than this, in bytes, go into a file. Too low hides what an ordinary command is; too
/// high leaves a line that no list of processes shows and that some tools cut off.
const LONGEST_LINE: usize = 2048;

/// Returns why a JAR cannot be exploded without losing something, on a Java release or an unknown
/// one.
///
/// `names` are those of its entries.
pub(super) fn needs_the_jar<'a>(
    manifest: &Manifest,
    mut names: impl Iterator<Item = &'a str>,
    java: Option<u16>,
) -> Option<&'static str> {
    if java.is_some_and(|java| java < MODULES) {
        return None;
    }
    if manifest.get("Launcher-Agent-Class").is_some_and(|class| !class.is_empty()) {
        return Some("Launcher-Agent-Class");
    }
    let is_multi_release =
        manifest.get("Multi-Release").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let is_of_a_release = |name: &str| name.contains("META-INF/versions/") && !name.ends_with('/');
    (is_multi_release && names.any(is_of_a_release)).then_some("Multi-Release")
}

/// Returns the words behind `java` that start a JAR exploded in `directory`.
pub(super) fn words(
    manifest: &Manifest,
    main_class: Option<&str>,
    directory: &str,
    java: Option<u16>,
) -> Vec<String> {
    let mut words = Vec::new();
    if java.is_none_or(|java| java >= MODULES) {
        for (attribute, option) in PACKAGES {
            let packages = manifest.get(attribute).unwrap_or_default().split_whitespace();
            // The JVM passes over what is not module and package.
            words.extend(
                packages
                    .filter(|package| is_package(package))
                    .map(|package| format!("{option}={package}={ALL_UNNAMED}")),
            );
        }
        for (attribute, since, option) in PERMISSIONS {
            if manifest.get(attribute) == Some(ALL_UNNAMED) && java.is_none_or(|java| java >= since)
            {
                words.push(format!("{option}={ALL_UNNAMED}"));
            }
        }
        if java.is_none() && !words.is_empty() {
            words.insert(0, IGNORE_UNKNOWN.to_owned());
        }
    }
    words.extend(["-cp".to_owned(), class_path(manifest, directory)]);
    words.extend(main_class.map(str::to_owned));
    words
}

fn is_package(text: &str) -> bool {
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', ',']);
    text.split_once('/').is_some_and(|(module, package)| {
        is_name(module) && is_name(package) && !package.contains('/')
    })
}

/// Returns the class path: the directory, and what the manifest's `Class-Path` names beside the
/// JAR, in its order.
fn class_path(manifest: &Manifest, directory: &str) -> String {
    let parent = directory.to_owned();
    let beside = manifest.get("Class-Path").unwrap_or_default().split_whitespace();
    let mut parts = vec![parent.clone()];
    for entry in beside {
        let path = match entry.split_once(':') {
            None => format!("{parent}/{entry}"),
            Some(("file", path)) if path.starts_with('/') => {
                format!("/{}", path.trim_start_matches('/'))
            }
            Some(_) => continue,
        };
        // A path with a colon would be two, and one with an escape is spelled otherwise on disk.
        if !path.contains([':', '%']) && !parts.contains(&path) {
            parts.push(path);
        }
    }
    parts.join(":")
}

/// Returns the content of a file to name with `@` in place of the words, where they are a long line
/// and the runtime is known to read such files.
pub(super) fn argument_file(words: &[String], java: Option<u16>) -> Option<String> {
    let length: usize = words.iter().map(|word| word.len() + 1).sum();
    if length <= LONGEST_LINE || java.is_none_or(|java| java < MODULES) {
        return None;
    }
    let quote =
        |word: &String| format!("\"{}\"\n", word.replace('\\', "\\\\").replace('"', "\\\""));
    Some(words.iter().map(quote).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "org.springframework.boot.loader.launch.JarLauncher";

    fn of(attributes: &str, java: Option<u16>) -> Vec<String> {
        words(&Manifest::parse(attributes.as_bytes()), Some(MAIN), "/app", java)
    }

    #[test]
    fn without_attributes_the_line_is_short() {
        for java in [None, Some(8), Some(17), Some(25)] {
            assert_eq!(of("Start-Class: A\n", java), ["-cp", "/app", MAIN]);
        }
    }

    #[test]
    fn attributes_of_modules_become_options_where_java_has_modules() {
        let attributes = "Add-Opens: java.base/java.lang java.base/java.util\n\
            Add-Exports: java.base/sun.nio.ch\nEnable-Native-Access: ALL-UNNAMED\n\
            Enable-Final-Field-Mutation: ALL-UNNAMED\n";
        let modules = [
            "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
            "--add-opens=java.base/java.lang=ALL-UNNAMED",
            "--add-opens=java.base/java.util=ALL-UNNAMED",
        ];
        let (native, fields) =
            ("--enable-native-access=ALL-UNNAMED", "--enable-final-field-mutation=ALL-UNNAMED");
        let end = ["-cp", "/app", MAIN];
        assert_eq!(of(attributes, Some(8)), end);
        assert_eq!(of(attributes, Some(11)), [&modules[..], &end].concat());
        assert_eq!(of(attributes, Some(21)), [&modules[..], &end].concat());
        assert_eq!(of(attributes, Some(25)), [&modules[..], &[native], &end].concat());
        assert_eq!(of(attributes, Some(26)), [&modules[..], &[native, fields], &end].concat());
        let unknown = [&[IGNORE_UNKNOWN][..], &modules, &[native, fields], &end].concat();
        assert_eq!(of(attributes, None), unknown);
    }

    #[test]
    fn what_the_jvm_passes_over_is_no_option() {
        let attributes = "Add-Opens: java.base / java.base/ /java.lang a/b/c a/b=ALL x/y,z\n\
            Add-Exports: \nEnable-Native-Access: my.module\n";
        assert_eq!(of(attributes, Some(25)), ["-cp", "/app", MAIN]);
    }

    #[test]
    fn the_class_path_keeps_its_order() {
        let attributes = "Class-Path: lib/b.jar lib/a.jar config/ file:/opt/x.jar \
            https://example/y.jar lib/b.jar\n";
        let path = "/app:/app/lib/b.jar:/app/lib/a.jar:/app/config/:/opt/x.jar";
        assert_eq!(of(attributes, Some(17)), ["-cp", path, MAIN]);
    }

    #[test]
    fn a_long_line_goes_into_a_file_where_java_reads_one() {
        let short = of("Add-Opens: java.base/java.lang\n", Some(17));
        assert_eq!(argument_file(&short, Some(17)), None);
        let packages: Vec<String> = (0..60).map(|n| format!("java.base/some.package{n}")).collect();
        let long = of(&format!("Add-Opens: {}\n", packages.join(" ")), Some(17));
        assert_eq!(argument_file(&long, Some(8)), None);
        assert_eq!(argument_file(&long, None), None);
        let file = argument_file(&long, Some(17)).expect("it is long");
        assert_eq!(file.lines().count(), 63);
        assert!(file.ends_with(&format!("\"-cp\"\n\"/app\"\n\"{MAIN}\"\n")), "{file}");
        let odd = [r#"a "b" \c"#.to_owned(), "x".repeat(LONGEST_LINE)];
        let file = argument_file(&odd, Some(9)).expect("it is long");
        assert!(file.starts_with(r#""a \"b\" \\c""#), "{file}");
    }

    #[test]
    fn an_attribute_without_an_option_keeps_the_jar_whole() {
        let releases = ["META-INF/versions/17/", "BOOT-INF/classes/META-INF/versions/17/A.class"];
        let plain = ["META-INF/versions/", "BOOT-INF/classes/A.class"];
        let why = |text: &str, names: &[&'static str], java| {
            needs_the_jar(&Manifest::parse(text.as_bytes()), names.iter().copied(), java)
        };
        let agent = "Launcher-Agent-Class: Agent\n";
        for java in [None, Some(9), Some(25)] {
            assert_eq!(why(agent, &plain, java), Some("Launcher-Agent-Class"));
            assert_eq!(why("Multi-Release: true\n", &releases, java), Some("Multi-Release"));
            assert_eq!(why("Multi-Release: true\n", &plain, java), None);
            assert_eq!(why("Multi-Release: false\n", &releases, java), None);
        }
        assert_eq!(why(agent, &plain, Some(8)), None);
    }
}
