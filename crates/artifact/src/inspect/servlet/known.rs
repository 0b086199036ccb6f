// SPDX-License-Identifier: Apache-2.0

//! Libraries whose version tells the servlet API, by the names that Maven gives their files.

use slipway_proto::artifact::ServletApi;

/// A version: its first two numbers.
type Version = (u16, u16);

const NEVER: Version = (u16::MAX, 0);

/// Names up to the version, the first version on `jakarta.servlet`, and the first that needs
/// Servlet 6.1.
const KNOWN: [(&str, Version, Version); 8] = [
    ("spring-web-", (6, 0), (7, 0)),
    ("spring-webmvc-", (6, 0), (7, 0)),
    ("spring-boot-", (3, 0), (4, 0)),
    ("tomcat-embed-core-", (10, 0), (11, 0)),
    ("struts2-core-", (7, 0), NEVER),
    ("wicket-core-", (10, 0), NEVER),
    ("javax.servlet-api-", NEVER, NEVER),
    // Version 4 still had the old package.
    ("jakarta.servlet-api-", (5, 0), (6, 1)),
];

/// Returns the API of a library by its path.
pub(super) fn api(path: &str) -> Option<ServletApi> {
    let file = path.rsplit('/').next().unwrap_or(path);
    KNOWN.iter().find_map(|(name, jakarta, newest)| {
        let version = version(file.strip_prefix(name)?)?;
        Some(if version >= *newest {
            ServletApi::Jakarta61
        } else if version >= *jakarta {
            ServletApi::Jakarta
        } else {
            ServletApi::Javax
        })
    })
}

fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_the_api() {
        for (name, expected) in [
            ("spring-web-4.3.30.RELEASE.jar", Some(ServletApi::Javax)),
            ("spring-web-5.3.31.jar", Some(ServletApi::Javax)),
            ("spring-web-6.2.1.jar", Some(ServletApi::Jakarta)),
            ("spring-web-7.0.1.jar", Some(ServletApi::Jakarta61)),
            ("spring-boot-4.0.0-SNAPSHOT.jar", Some(ServletApi::Jakarta61)),
            ("spring-boot-starter-web-4.0.0.jar", None),
            ("spring-web.jar", None),
            ("tomcat-embed-core-9.0.98.jar", Some(ServletApi::Javax)),
            ("tomcat-embed-core-10.1.34.jar", Some(ServletApi::Jakarta)),
            ("struts2-core-6.4.0.jar", Some(ServletApi::Javax)),
            ("struts2-core-7.0.0.jar", Some(ServletApi::Jakarta)),
            ("javax.servlet-api-4.0.1.jar", Some(ServletApi::Javax)),
            ("jakarta.servlet-api-4.0.4.jar", Some(ServletApi::Javax)),
            ("jakarta.servlet-api-6.0.0.jar", Some(ServletApi::Jakarta)),
            ("jakarta.servlet-api-6.1.0.jar", Some(ServletApi::Jakarta61)),
            ("my-spring-web-7.0.jar", None),
        ] {
            assert_eq!(api(&format!("WEB-INF/lib/{name}")), expected, "{name}");
        }
    }
}
