//! The TLS of a mail server on this machine, and who believes it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use super::handshake::Trust;

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(include_bytes!("fixture/localhost-cert.pem")).unwrap()
}

/// Believes `localhost` as [`acceptor`] shows it, and nobody else.
pub(super) fn trust() -> Trust {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    let mut settings = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // What the product's own settings begin with, and must not say here.
    settings.alpn_protocols = vec![b"h2".to_vec()];
    Trust::new(settings)
}

/// `localhost`.
pub(super) fn acceptor() -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixture/localhost-key.pem")).unwrap();
    let mut settings = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key)
        .unwrap();
    // Refuses whoever comes with a list of protocols.
    settings.alpn_protocols = vec![b"nothing-we-know".to_vec()];
    TlsAcceptor::from(Arc::new(settings))
}
