// SPDX-License-Identifier: Apache-2.0

//! The addresses of a registry, and which of them may be reached without TLS.
//!
//! The operator decides about plain HTTP, and nobody else: neither an upload's location nor a
//! redirect nor a token server's address takes a request of a TLS registry into the clear.

use std::net::IpAddr;

use reqwest::Url;

use super::RegistryError;
use super::access::Access;
use super::transport::Registry;

impl Registry {
    /// Returns the address of a path below `/v2/<repository>/`.
    pub(super) fn url(&self, access: &Access, path: &str) -> Result<Url, RegistryError> {
        let reference = &access.repository.reference;
        let registry = reference.registry();
        let scheme = if self.is_plain(registry) { "http" } else { "https" };
        // Docker Hub's API is on another host than its name.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{path}", reference.repository()))
            .map_err(|error| RegistryError::malformed(format!("{reference}: {error}")))
    }

    /// Returns whether a registry is spoken to in plain HTTP: the operator lists it, or it is on
    /// this machine. One that is also listed as one with TLS is not.
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        let options = &self.shared.options;
        let lists = |hosts: &[String]| hosts.iter().any(|host| host == registry);
        !lists(&options.tls) && (lists(&options.insecure) || is_loopback(registry))
    }

    /// Returns whether a request for a registry may go to an address: over TLS, unless the operator
    /// lists the registry or that host as insecure.
    pub(super) fn may_go_to(&self, registry: &str, url: &Url) -> bool {
        url.scheme() == "https"
            || self.is_plain(registry)
            || self.shared.options.insecure.iter().any(|host| is_of(url, host))
    }
}

/// Returns whether an address has this `host` or `host:port`.
fn is_of(url: &Url, host: &str) -> bool {
    host == url.authority()
        || url.host_str().zip(url.port_or_known_default()).is_some_and(|(name, port)| {
            host.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'))
                == Some(port.to_string().as_str())
        })
}

/// Returns whether a registry's host is this machine, which is reached over plain HTTP, as Docker
/// does.
fn is_loopback(registry: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{registry}")) else { return false };
    match url.host() {
        Some(url::Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        None => false,
    }
}

/// Returns whether an address belongs to a private network, where no registry elsewhere may send
/// requests.
pub(super) fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        Some(url::Host::Ipv6(address)) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        Some(url::Host::Domain(name)) => name == "localhost",
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegistryOptions;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http() {
        for host in [
            "localhost",
            "localhost:5000",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "127.3.2.1",
            "[::1]:5000",
            "[::ffff:127.0.0.1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "10.0.0.1:5000", "[2001:db8::1]:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn only_the_operator_decides_where_there_is_no_tls() {
        let registry = Registry::new(RegistryOptions {
            insecure: vec!["plain.example".to_owned(), "auth.example:81".to_owned()],
            tls: vec!["127.0.0.1:5443".to_owned()],
            ..RegistryOptions::default()
        });
        let registry = registry.expect("it can be made");
        let may = |name, url: &str| registry.may_go_to(name, &url.parse().expect("one"));
        assert!(may("r.example", "https://anywhere.example/token"));
        assert!(may("r.example", "http://auth.example:81/token"));
        assert!(may("r.example", "http://plain.example:80/token"));
        assert!(may("plain.example", "http://auth.example/token"));
        assert!(may("127.0.0.1:5000", "http://127.0.0.1:5001/token"));
        assert!(!may("r.example", "http://auth.example/token"));
        assert!(!may("r.example", "http://127.0.0.1:5001/token"));
        assert!(!may("r.example", "http://r.example/v2/upload"));
        assert!(registry.is_plain("127.0.0.1:5000") && !registry.is_plain("127.0.0.1:5443"));
        assert!(!may("127.0.0.1:5443", "http://127.0.0.1:5000/v2/upload"));
    }
}
