//! TLS from the first byte on, for relays that speak it at once.
//!
//! Why not lettre's: it opens the socket itself, and then nobody can keep the server's answers short (`capped`).
//!
//! It must never go on without a certificate that Mozilla's roots vouch for under the relay's own name.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::reply::{Stage, silence};
use crate::channel::outcome::Refusal;

/// Shakes hands with `host` at the other end of `stream`.
///
/// # Errors
/// Nothing was sent.
pub(super) async fn shake_hands(
    host: &str,
    stream: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let settings = crate::tls::client_config().map_err(|_| silence(Stage::Connect, "tls_settings"))?;
    trusting(settings, host, stream, limit).await
}

async fn trusting(
    mut settings: ClientConfig,
    host: &str,
    stream: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Refusal> {
    // Mail has no name in that list, and a server that knows only others might refuse.
    settings.alpn_protocols.clear();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| silence(Stage::Connect, "tls_settings"))?;
    let handshake = TlsConnector::from(Arc::new(settings)).connect(name, stream);
    match timeout(limit, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(_)) => Err(silence(Stage::Connect, "lost")),
        Err(_) => Err(silence(Stage::Connect, "timeout")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn certificate() -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(include_bytes!("fixture/localhost-cert.pem")).unwrap()
    }

    fn trust(certificate: Option<CertificateDer<'static>>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificate);
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A server that greets over TLS, once.
    async fn server() -> TcpStream {
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixture/localhost-key.pem")).unwrap();
        let mut settings = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate()], key)
            .unwrap();
        // Refuses whoever comes with a list of protocols.
        settings.alpn_protocols = vec![b"nothing-we-know".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(settings)).accept(stream).await {
                let _ = stream.write_all(b"220 hello\r\n").await;
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
        TcpStream::connect(address).await.unwrap()
    }

    #[tokio::test]
    async fn a_server_is_believed_under_its_own_name_and_by_whoever_is_trusted() {
        let mut stream = trusting(trust(Some(certificate())), "localhost", server().await, LIMIT)
            .await
            .unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        let refused = silence(Stage::Connect, "lost");
        let other = trusting(trust(Some(certificate())), "elsewhere", server().await, LIMIT).await;
        assert_eq!(other.unwrap_err(), refused);
        let unknown = shake_hands("localhost", server().await, LIMIT).await;
        assert_eq!(unknown.unwrap_err(), refused);
    }
}
