// SPDX-License-Identifier: Apache-2.0

//! Certificates for servers of tests on loopback, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rand::random;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::process::command;

/// A certificate with its key, as PEM files.
pub struct Certificate {
    /// The certificate. Whoever trusts it reaches the server.
    pub certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes a certificate that signs itself and is marked as an authority, as `openssl req -x509`
    /// does, for these names, such as `IP:127.0.0.1`.
    #[must_use]
    pub fn self_signed(directory: &Path, names: &str) -> Self {
        let made = Self::at(directory, "self-signed");
        let mut openssl = request();
        openssl.args(["-x509", "-days", "2", "-addext", &format!("subjectAltName={names}")]);
        run(openssl.arg("-keyout").arg(&made.key).arg("-out").arg(&made.certificate));
        made
    }

    /// Makes a certificate for these names, signed by this one, that is good for some days; none is
    /// over at once.
    ///
    /// # Panics
    ///
    /// When a file cannot be written.
    #[must_use]
    pub fn issue(&self, directory: &Path, names: &str, days: u32) -> Self {
        let made = Self::at(directory, &format!("issued-{days}"));
        let asked = directory.join("request.pem");
        run(request().arg("-keyout").arg(&made.key).arg("-out").arg(&asked));
        let extensions = directory.join("extensions");
        let usage = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(&extensions, usage).expect("it can be written");
        let mut openssl = command("openssl");
        openssl.args(["x509", "-req", "-CAcreateserial", "-days", &days.to_string(), "-in"]);
        openssl.arg(&asked).arg("-CA").arg(&self.certificate).arg("-CAkey").arg(&self.key);
        run(openssl.arg("-extfile").arg(&extensions).arg("-out").arg(&made.certificate));
        made
    }

    fn at(directory: &Path, name: &str) -> Self {
        std::fs::create_dir_all(directory).expect("the directory can be made");
        let at = |kind: &str| directory.join(format!("{name}-{kind}.pem"));
        Self { certificate: at("certificate"), key: at("key") }
    }

    /// Returns the key's file.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Returns what accepts connections with this certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let _already_chosen = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(&self.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they belong together");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Asks for a certificate with a subject of its own.
fn request() -> Command {
    let mut openssl = command("openssl");
    openssl.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-subj", &format!("/CN={}", random::<u64>())]);
    openssl
}

fn run(openssl: &mut Command) {
    let made = openssl.output().expect("openssl is installed: run `make setup` first");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
