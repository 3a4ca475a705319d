//! The one way this program speaks TLS as a client: rustls on ring, Mozilla's roots built in, so that a machine without a
//! certificate store works too.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// The settings of a client that speaks HTTP/2 where the other side does.
pub(crate) fn client_config() -> Result<ClientConfig, rustls::Error> {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
