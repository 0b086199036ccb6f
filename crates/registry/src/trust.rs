// SPDX-License-Identifier: Apache-2.0

//! Whom a process trusts over TLS, and what a failure of TLS means.
//!
//! The system's certificates are trusted, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. A
//! registry's own certificate that is among them is trusted for the names it holds, although it is
//! marked as an authority, as `openssl req -x509` marks one that signs itself. OpenSSL and Go do so;
//! webpki alone does not (<https://github.com/rustls/webpki/issues/114>).

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

/// Returns the TLS settings of a process. A machine without certificate authorities can still reach
/// registries over plain HTTP; those with TLS are then refused as untrusted.
pub(super) fn tls() -> ClientConfig {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate of this machine cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(found.certs.iter().cloned());
    let nobody = || {
        tracing::warn!(
            "no certificate authorities: install ca-certificates to reach registries over TLS"
        );
        ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    if added == 0 {
        return nobody();
    }
    let Ok(usual) = WebPkiServerVerifier::builder(Arc::new(roots)).build() else {
        return nobody();
    };
    let verifier = Verifier { usual, trusted: found.certs };
    ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth()
}

/// Verifies as webpki does, and takes a certificate that is itself trusted.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Its dates were checked before its issuer.
            Err(error) if is_about_issuer(&error) && self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Returns whether a certificate was refused because nobody that is trusted issued it.
fn is_about_issuer(error: &Error) -> bool {
    match error {
        // The latter where an authority has the issuer's name and not its key.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => true,
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

/// What a failure of TLS says of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TlsFailure {
    /// It does not speak TLS, but plain HTTP or something else.
    NotTls,
    /// It speaks TLS, and will fail in the same way next time. The sentence follows its name.
    Lasting(String),
}

/// Finds the failure of TLS behind a failed request. `None` if there is none, or one that may pass,
/// such as a connection that broke during the handshake.
pub(super) fn tls_failure(error: &(dyn StdError + 'static)) -> Option<TlsFailure> {
    let how_to_trust = "if it is yours, add the certificate of its issuer to this machine's, or \
        name a file that holds it in SSL_CERT_FILE";
    let sentence = match find(error)? {
        Error::InvalidMessage(_) => return Some(TlsFailure::NotTls),
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "has a certificate that has expired; its operator must renew it".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "has a certificate that is not valid yet; check the clock of this machine"
                    .to_owned()
            }
            CertificateError::NotValidForName => {
                "has a certificate for another name; use the name that it is for".to_owned()
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<String> = presented.iter().map(|name| shown(name)).collect();
                let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
                format!("has a certificate for {names}; use a name that it is for")
            }
            CertificateError::Revoked => "has a certificate that was revoked".to_owned(),
            // The latter where an authority has the issuer's name and not its key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "has a certificate that this machine does not trust: it does not know who issued \
                it; {how_to_trust}"
            ),
            CertificateError::Other(other)
                if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
            {
                format!(
                    "has a certificate that it signed itself and that this machine does not \
                    trust; {how_to_trust}"
                )
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "has a certificate that is not for servers".to_owned()
            }
            _ => "has a certificate that is not valid".to_owned(),
        },
        Error::PeerIncompatible(_)
        | Error::AlertReceived(
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity,
        ) => "has no version or cipher of TLS in common with Slipway, which speaks 1.2 and 1.3"
            .to_owned(),
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "does not answer to this name over TLS".to_owned()
        }
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => "asks for a client certificate, which Slipway does not have".to_owned(),
        Error::PeerMisbehaved(_) | Error::NoCertificatesPresented => {
            "does not follow the rules of TLS".to_owned()
        }
        _ => return None,
    };
    Some(TlsFailure::Lasting(sentence))
}

/// Returns a name of a certificate, which rustls writes as `DnsName("r.example")`.
fn shown(name: &str) -> String {
    let quoted = name.split_once('"').and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or(name, |(inner, _)| inner).to_owned()
}

/// Finds the TLS library's error in a chain. An `io::Error` hides the one that it holds.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_is_found_behind_others_and_said_in_a_sentence() {
        let said = |error: Error| {
            let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            tls_failure(&wrapped)
        };
        let lasting = |error: Error| match said(error) {
            Some(TlsFailure::Lasting(sentence)) => sentence,
            other => panic!("{other:?}"),
        };
        for (error, part) in [
            (CertificateError::Expired, "has expired"),
            (CertificateError::NotValidYet, "not valid yet"),
            (CertificateError::NotValidForName, "another name"),
            (CertificateError::UnknownIssuer, "does not trust"),
            (CertificateError::BadEncoding, "not valid"),
        ] {
            let sentence = lasting(Error::InvalidCertificate(error));
            assert!(sentence.contains(part) && sentence.contains("certificate"), "{sentence}");
        }
        let versions = lasting(Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert!(versions.contains("1.2 and 1.3"), "{versions}");
        let plain = rustls::InvalidMessage::InvalidContentType;
        assert_eq!(said(Error::InvalidMessage(plain)), Some(TlsFailure::NotTls));
        assert_eq!(said(Error::AlertReceived(AlertDescription::InternalError)), None, "may pass");
        assert_eq!(tls_failure(&io::Error::other("reset")), None);
    }

    #[test]
    fn names_of_certificates_are_shown_without_the_librarys_types() {
        assert_eq!(shown("DnsName(\"r.example\")"), "r.example");
        assert_eq!(shown("IpAddress(127.0.0.1)"), "IpAddress(127.0.0.1)");
    }
}
