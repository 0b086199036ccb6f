// SPDX-License-Identifier: Apache-2.0

//! Symbolic links of a bundle: kept where they stay inside, refused where they lead out.
//!
//! A link is followed as the kernel would, component by component, through other links of the
//! bundle: by its text alone, `a/..` seems to be where `a` is, and is not if `a` is a link.

use std::collections::BTreeMap;

use super::tree::Node;
use crate::invalid::{Code, InspectError, quoted};

/// How many links the kernel follows on one path before it gives up (`path_resolution(7)`).
const MOST_FOLLOWED: usize = 40;

/// How many directories one path may lead through, links included: bounds the time that the links of
/// an archive take together. The deepest trees of packages have some 30.
const MOST_COMPONENTS: usize = 256;

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Astray {
    /// It leaves the bundle.
    Outside,
    /// It is followed in a circle, or further than any path leads.
    TooFar,
}

/// Refuses links that leave the bundle, or lead round in a circle. One that leads to nothing stays
/// inside, and is kept.
pub(super) fn check(nodes: &BTreeMap<String, Node>) -> Result<(), InspectError> {
    for (path, node) in nodes {
        let Node::Link(target) = node else { continue };
        let what = match resolve(nodes, path) {
            Ok(_) => continue,
            Err(Astray::Outside) => {
                "leads out of the directory, where the image has something else: put what it leads \
                to inside"
            }
            Err(Astray::TooFar) => "leads round in a circle, or too far: remove it",
        };
        let message = format!("the symbolic link {} to {} {what}", quoted(path), quoted(target));
        return Err(InspectError::invalid(Code::UnsafePath, message));
    }
    Ok(())
}

/// Returns the path without links that a path means. What is not there counts as a directory.
pub(super) fn resolve(nodes: &BTreeMap<String, Node>, path: &str) -> Result<String, Astray> {
    let mut rest: Vec<&str> = path.split('/').rev().collect();
    let mut found = String::new();
    let (mut followed, mut steps) = (0, 0);
    while let Some(part) = rest.pop() {
        steps += 1;
        if steps > MOST_COMPONENTS {
            return Err(Astray::TooFar);
        }
        match part {
            "" | "." => {}
            ".." => match found.rfind('/') {
                Some(slash) => found.truncate(slash),
                None if found.is_empty() => return Err(Astray::Outside),
                None => found.clear(),
            },
            name => {
                let before = found.len();
                if !found.is_empty() {
                    found.push('/');
                }
                found.push_str(name);
                let Some(Node::Link(target)) = nodes.get(&found) else { continue };
                followed += 1;
                if followed > MOST_FOLLOWED {
                    return Err(Astray::TooFar);
                }
                if target.starts_with('/') {
                    return Err(Astray::Outside);
                }
                found.truncate(before);
                rest.extend(target.split('/').rev());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(links: &[(&str, &str)]) -> BTreeMap<String, Node> {
        let links = links
            .iter()
            .map(|(path, target)| ((*path).to_owned(), Node::Link((*target).to_owned())));
        links.chain([("d".to_owned(), Node::Directory)]).collect()
    }

    #[test]
    fn a_link_that_stays_inside_is_kept_wherever_it_leads() {
        for links in [
            &[("a", "b"), ("lib/x", "../d/y"), ("d/e/f", "../.././a")][..],
            &[("here", "."), ("here2", "here/here/d")],
            &[("a", "not/there")],
            &[("d/up", ".."), ("down", "d/up/d/up/d")],
        ] {
            assert!(check(&tree(links)).is_ok(), "{links:?}");
        }
    }

    #[test]
    fn a_link_that_leaves_is_refused_also_by_way_of_another() {
        for links in [
            &[("a", "/etc/passwd")][..],
            &[("a", "..")],
            &[("a", "../x")],
            &[("d/a", "../../x")],
            &[("d/up", ".."), ("b", "d/up/../x")],
            &[("a", "not/there/../../../x")],
            &[("a", "/")],
        ] {
            let refused = check(&tree(links)).expect_err("it leaves").to_string();
            assert!(refused.contains("leads out"), "{links:?}: {refused}");
        }
        assert_eq!(resolve(&tree(&[("d/up", "..")]), "d/up/x"), Ok("x".to_owned()));
    }

    #[test]
    fn a_circle_is_refused() {
        for links in [&[("a", "a")][..], &[("a", "b"), ("b", "a")], &[("a", "a/a")]] {
            let refused = check(&tree(links)).expect_err("it never ends").to_string();
            assert!(refused.contains("circle"), "{links:?}: {refused}");
        }
    }
}
