// SPDX-License-Identifier: Apache-2.0

//! Spring Boot's executable archives: how to recognise them, and the layers their build divided
//! them into.

use std::collections::HashMap;

use crate::manifest::Manifest;

/// Where `layers.idx` is in a JAR when the manifest's `Spring-Boot-Layers-Index` names no other.
pub const LAYERS_INDEX: &str = "BOOT-INF/layers.idx";

/// More layers than this are refused: the kernel's overlay file system stacks some 120, and the
/// base image needs a few.
const MOST_LAYERS: usize = 64;

/// Returns whether a manifest is that of a Spring Boot executable archive.
#[must_use]
pub fn is_spring_boot(manifest: &Manifest) -> bool {
    let launched = |class: &str| class.starts_with("org.springframework.boot.loader.");
    manifest.get("Spring-Boot-Version").is_some()
        || manifest.get("Spring-Boot-Classes").is_some()
        || manifest.get("Main-Class").is_some_and(launched)
}

/// A `layers.idx` that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLayersError {
    /// A line is neither a layer nor a path of one.
    #[error("line {line} of the layers index is neither `- \"layer\":` nor `  - \"path\"`")]
    Line {
        /// The line's number, from 1.
        line: usize,
    },
    /// There is none.
    #[error("the layers index names no layer")]
    Empty,
    /// Two layers have one name.
    #[error("the layers index names the layer `{name}` twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// There are more than can be stacked.
    #[error("the layers index names more than {MOST_LAYERS} layers")]
    TooMany,
}

/// The layers of a `layers.idx`, in its order: what changes least comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    layers: Vec<(String, Vec<String>)>,
    /// The paths as a tree. Finding an entry's layer costs the length of its name, not the product
    /// of two lists that an uploader wrote.
    tree: Vec<Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    children: HashMap<String, usize>,
    /// Set if the index has exactly this path: its line's position and layer.
    exact: Option<(usize, usize)>,
    /// Set if the index has this path with a `/` at the end, which means everything below it.
    below: Option<(usize, usize)>,
}

impl Layers {
    /// Reads a `layers.idx`.
    ///
    /// The format is the part of YAML that Spring Boot's own reader knows (`IndexedLayers` of
    /// spring-boot-jarmode-tools): `- "name":` starts a layer, `  - "path"` belongs to it.
    ///
    /// # Errors
    ///
    /// When a line is anything else, or there is no layer, or two have one name, or too many.
    pub fn parse(text: &str) -> Result<Self, ParseLayersError> {
        let mut layers: Vec<(String, Vec<String>)> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let layer = text.strip_prefix("- \"").and_then(|rest| rest.strip_suffix("\":"));
            let path = text.strip_prefix("  - \"").and_then(|rest| rest.strip_suffix('"'));
            if let Some(name) = layer {
                if layers.iter().any(|(known, _)| known == name) {
                    return Err(ParseLayersError::Duplicate { name: name.to_owned() });
                }
                if layers.len() == MOST_LAYERS {
                    return Err(ParseLayersError::TooMany);
                }
                layers.push((name.to_owned(), Vec::new()));
                continue;
            }
            let (Some(path), Some((_, paths))) = (path, layers.last_mut()) else {
                return Err(ParseLayersError::Line { line });
            };
            paths.push(path.to_owned());
        }
        if layers.is_empty() {
            return Err(ParseLayersError::Empty);
        }
        let mut index = Self { layers, tree: vec![Node::default()] };
        index.plant();
        Ok(index)
    }

    fn plant(&mut self) {
        let lines = self.layers.iter().enumerate();
        let lines =
            lines.flat_map(|(layer, (_, paths))| paths.iter().map(move |path| (layer, path)));
        for (place, (layer, path)) in lines.enumerate() {
            let directory = path.strip_suffix('/');
            let mut node = 0;
            for component in directory.unwrap_or(path).split('/') {
                let fresh = self.tree.len();
                node = *self.tree[node].children.entry(component.to_owned()).or_insert(fresh);
                if node == fresh {
                    self.tree.push(Node::default());
                }
            }
            let leaf = &mut self.tree[node];
            let slot = if directory.is_some() { &mut leaf.below } else { &mut leaf.exact };
            slot.get_or_insert((place, layer));
        }
    }

    /// Returns the layers' names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layers.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the layers with their paths, in order.
    #[must_use]
    pub fn layers(&self) -> &[(String, Vec<String>)] {
        &self.layers
    }

    /// Returns the index of the layer that an entry of the archive belongs to.
    ///
    /// Spring Boot's rule: the first line of the index that is the entry's name, or that ends in
    /// `/` and is a prefix of it.
    #[must_use]
    pub fn layer_of(&self, path: &str) -> Option<usize> {
        let mut first: Option<(usize, usize)> = None;
        let mut better = |found: Option<(usize, usize)>| {
            first = first.into_iter().chain(found).min();
        };
        let mut node = &self.tree[0];
        let mut components = path.split('/').peekable();
        while let Some(component) = components.next() {
            let Some(child) = node.children.get(component) else { break };
            node = &self.tree[*child];
            match components.peek() {
                Some(_) => better(node.below),
                None => better(node.exact),
            }
        }
        first.map(|(_, layer)| layer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INDEX: &str = r#"- "dependencies":
  - "BOOT-INF/lib/a.jar"
  - "BOOT-INF/lib/b.jar"
- "spring-boot-loader":
  - "org/"
- "snapshot-dependencies":
- "application":
  - "BOOT-INF/classes/"
  - "BOOT-INF/lib/"
  - "META-INF/"
"#;

    #[test]
    fn the_index_that_spring_boot_writes_is_read() {
        for text in [INDEX.to_owned(), INDEX.replace('\n', "\r\n"), format!("\n{INDEX}\n \n")] {
            let layers = Layers::parse(&text).expect("it is read");
            let names: Vec<&str> = layers.names().collect();
            let expected =
                ["dependencies", "spring-boot-loader", "snapshot-dependencies", "application"];
            assert_eq!(names, expected);
            assert_eq!(layers.layers()[2].1, Vec::<String>::new());
        }
    }

    #[test]
    fn an_entry_belongs_to_the_first_line_that_fits() {
        let layers = Layers::parse(INDEX).expect("it is read");
        let cases = [
            ("BOOT-INF/lib/a.jar", Some(0)),
            ("BOOT-INF/lib/c.jar", Some(3)),
            ("BOOT-INF/lib/", Some(3)),
            ("BOOT-INF/lib", None),
            ("BOOT-INF/lib/a.jar/x", Some(3)),
            ("BOOT-INF/", None),
            ("org/springframework/boot/loader/Launcher.class", Some(1)),
            ("organisation", None),
            ("META-INF/MANIFEST.MF", Some(3)),
            ("", None),
        ];
        for (path, layer) in cases {
            assert_eq!(layers.layer_of(path), layer, "{path}");
        }
        let order = Layers::parse("- \"a\":\n  - \"x/\"\n- \"b\":\n  - \"x/y\"\n").expect("read");
        assert_eq!(order.layer_of("x/y"), Some(0), "the first and not the longest");
    }

    proptest! {
        /// The result is the same as comparing with one line after the other, as Spring Boot does.
        #[test]
        fn the_tree_follows_spring_boots_rule(
            lines in proptest::collection::vec(("[ab]", "[ab/]{0,5}"), 0..12),
            path in "[ab/]{0,6}",
        ) {
            let mut text = String::new();
            for (number, (_, line)) in lines.iter().enumerate() {
                text += &format!("- \"{number}\":\n  - \"{line}\"\n");
            }
            let expected = lines.iter().position(|(_, line)| {
                *line == path || (line.ends_with('/') && path.starts_with(line.as_str()))
            });
            let Ok(layers) = Layers::parse(&text) else { return Ok(()) };
            prop_assert_eq!(layers.layer_of(&path), expected);
        }
    }

    #[test]
    fn an_index_that_cannot_be_followed_is_refused() {
        let many: String = (0..65).map(|number| format!("- \"{number}\":\n")).collect();
        let cases = [
            ("", ParseLayersError::Empty),
            ("  - \"a\"\n", ParseLayersError::Line { line: 1 }),
            ("- \"a\":\n- b:\n", ParseLayersError::Line { line: 2 }),
            ("- \"a\":\n   - \"b\"\n", ParseLayersError::Line { line: 2 }),
            ("- \"a\":\n- \"a\":\n", ParseLayersError::Duplicate { name: "a".into() }),
            (many.as_str(), ParseLayersError::TooMany),
        ];
        for (text, error) in cases {
            assert_eq!(Layers::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_spring_boot_archive_is_told_by_its_manifest() {
        let cases = [
            ("Spring-Boot-Version: 3.2.0", true),
            ("Spring-Boot-Classes: BOOT-INF/classes/", true),
            ("Main-Class: org.springframework.boot.loader.launch.JarLauncher", true),
            ("Main-Class: org.springframework.boot.loader.JarLauncher", true),
            ("Main-Class: com.example.Main", false),
            ("Start-Class: com.example.Main", false),
        ];
        for (line, expected) in cases {
            assert_eq!(is_spring_boot(&Manifest::parse(line.as_bytes())), expected, "{line}");
        }
    }
}
