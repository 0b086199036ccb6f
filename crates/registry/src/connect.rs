// SPDX-License-Identifier: Apache-2.0

//! The HTTP client of a process: how long it waits, whom it trusts, and which way it takes.
//!
//! Proxies follow the rules of Go's clients, and so of all container tools: `HTTP_PROXY`,
//! `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, and never a proxy on the way to this
//! machine itself. Redirects are followed in `redirect`, which knows what a request carries.

use std::sync::LazyLock;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy, Url, redirect};

use super::trust;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a registry. Some take long to commit a large blob.
const REGISTRY_SILENT_FOR: Duration = Duration::from_secs(120);
/// All ways to write an address of this machine, as entries of `NO_PROXY`. The last is IPv4 written
/// in IPv6.
const LOOPBACK: &str = "localhost,localhost.,127.0.0.0/8,::1,::ffff:127.0.0.0/104";

/// The proxies of this process's environment.
struct Proxies {
    http: String,
    https: String,
    /// What goes without a proxy, loopback included.
    none: String,
    matcher: Matcher,
}

static PROXIES: LazyLock<Proxies> = LazyLock::new(|| Proxies::of(|name| std::env::var(name).ok()));

impl Proxies {
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        let all = first(&["ALL_PROXY", "all_proxy"]);
        let or_all = |own: String| if own.is_empty() { all.clone() } else { own };
        // Under CGI a client sets HTTP_PROXY, by its header `Proxy`.
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let http = if is_cgi { String::new() } else { first(&["HTTP_PROXY", "http_proxy"]) };
        let (http, https) = (or_all(http), or_all(first(&["HTTPS_PROXY", "https_proxy"])));
        let none = match first(&["NO_PROXY", "no_proxy"]) {
            own if own.is_empty() => LOOPBACK.to_owned(),
            own if own.trim() == "*" => own,
            own => format!("{own},{LOOPBACK}"),
        };
        let matcher = Matcher::builder().http(http.clone()).https(https.clone());
        Self { matcher: matcher.no(none.clone()).build(), http, https, none }
    }

    /// Returns the proxy on the way to an address, without its password.
    fn to(&self, url: &Url) -> Option<String> {
        let uri = url.as_str().parse().ok()?;
        let proxy = self.matcher.intercept(&uri)?;
        Some(proxy.uri().to_string().trim_end_matches('/').to_owned())
    }

    fn apply(&self, mut builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        builder = builder.no_proxy();
        let made = [
            (!self.http.is_empty()).then(|| Proxy::http(with_scheme(&self.http))),
            (!self.https.is_empty()).then(|| Proxy::https(with_scheme(&self.https))),
        ];
        for proxy in made.into_iter().flatten() {
            match proxy {
                Ok(proxy) => {
                    builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&self.none)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a proxy of the environment cannot be used");
                }
            }
        }
        builder
    }
}

/// Adds the scheme that people leave out.
fn with_scheme(proxy: &str) -> String {
    if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") }
}

/// Returns the proxy on the way to an address, without its password.
pub(super) fn proxy_to(url: &Url) -> Option<String> {
    PROXIES.to(url)
}

/// Makes the client.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(REGISTRY_SILENT_FOR)
        .redirect(redirect::Policy::none())
        .tls_backend_preconfigured(trust::tls())
        .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")));
    PROXIES.apply(builder).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn to(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.to(&url.parse().expect("an address"))
    }

    #[test]
    fn no_way_to_write_loopback_leads_over_a_proxy() {
        let proxies = proxies(&[("ALL_PROXY", "http://proxy.example:3128")]);
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            "127.3.2.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            for scheme in ["http", "https"] {
                assert_eq!(to(&proxies, &format!("{scheme}://{host}:5000/v2/")), None, "{host}");
            }
        }
        for host in ["registry.example", "localhost.example", "10.0.0.1", "128.0.0.1", "[::2]"] {
            let found = to(&proxies, &format!("http://{host}:5000/v2/"));
            assert_eq!(found.as_deref(), Some("http://proxy.example:3128"), "{host}");
        }
    }

    #[test]
    fn the_environment_says_which_way_goes_over_which_proxy() {
        let own = proxies(&[
            ("http_proxy", "plain.example:81"),
            ("HTTPS_PROXY", "http://user:secret@tls.example:82"),
            ("no_proxy", "near.example,10.0.0.0/8"),
        ]);
        assert_eq!(to(&own, "http://r.example/").as_deref(), Some("http://plain.example:81"));
        assert_eq!(to(&own, "https://r.example/").as_deref(), Some("http://tls.example:82"));
        assert_eq!(to(&own, "https://a.near.example/"), None);
        assert_eq!(to(&own, "https://10.1.2.3/"), None);
        assert_eq!(to(&own, "https://127.0.0.1/"), None);
        let none = proxies(&[("ALL_PROXY", "http://proxy.example"), ("NO_PROXY", "*")]);
        assert_eq!(to(&none, "https://r.example/"), None);
        let cgi = proxies(&[("HTTP_PROXY", "http://evil.example"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(to(&cgi, "http://r.example/"), None);
        assert_eq!(to(&proxies(&[]), "http://r.example/"), None);
    }
}
