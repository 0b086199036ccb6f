// SPDX-License-Identifier: Apache-2.0

//! Mirrors: where base images are read from instead, so that public names work in a closed network.

use slipway_proto::Reference;

/// Replaces the start of base references, so that public names work inside a closed network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    prefix: String,
    mirror: String,
}

/// A text that is not a mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mirror: write PREFIX=MIRROR, as in docker.io=registry.example/docker.io")]
pub struct ParseMirrorError(String);

impl std::str::FromStr for Mirror {
    type Err = ParseMirrorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseMirrorError(text.to_owned());
        let (prefix, mirror) = text.split_once('=').ok_or_else(refuse)?;
        let (prefix, mirror) = (prefix.trim_matches('/'), mirror.trim_matches('/'));
        // A check: both must be the start of a reference with a registry.
        let starts = |part: &str| Reference::parse_target(&format!("{part}/probe")).is_ok();
        if !starts(prefix) || !starts(mirror) {
            return Err(refuse());
        }
        Ok(Self { prefix: prefix.to_owned(), mirror: mirror.to_owned() })
    }
}

impl serde::Serialize for Mirror {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.prefix, self.mirror)
    }
}

/// Returns where a base is read from. The longest matching prefix wins.
#[must_use]
pub fn mirrored(reference: &Reference, mirrors: &[Mirror]) -> Reference {
    let text = reference.to_string();
    let rest_of = |mirror: &Mirror| {
        let rest = text.strip_prefix(&mirror.prefix)?;
        rest.starts_with(['/', ':', '@']).then(|| rest.to_owned())
    };
    mirrors
        .iter()
        .filter_map(|mirror| rest_of(mirror).map(|rest| (mirror, rest)))
        .max_by_key(|(mirror, _)| mirror.prefix.len())
        .and_then(|(mirror, rest)| format!("{}{rest}", mirror.mirror).parse().ok())
        .unwrap_or_else(|| reference.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_names_the_mirror() {
        let mirrors: Vec<Mirror> =
            ["docker.io=127.0.0.1:5000/docker.io", "docker.io/library=m.example/official"]
                .map(|text| text.parse().expect("a mirror"))
                .to_vec();
        let mirror =
            |text: &str| mirrored(&text.parse().expect("a reference"), &mirrors).to_string();
        assert_eq!(mirror("nginx:1"), "m.example/official/nginx:1");
        assert_eq!(mirror("team/app:1"), "127.0.0.1:5000/docker.io/team/app:1");
        assert_eq!(mirror("gcr.io/a/b:1"), "gcr.io/a/b:1");
        assert_eq!(mirror("docker.iox.example/a:1"), "docker.iox.example/a:1");
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for text in ["docker.io", "=x", "docker.io=", "docker.io=UPPER/x", "library=r.example"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
