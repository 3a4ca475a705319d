//! The TLS handshake with a relay: at once, or after STARTTLS.
//!
//! Why not lettre's: it opens the socket itself, and then nobody can keep the server's answers short (`capped`); and see `starttls`.
//!
//! It must never go on without a certificate that Mozilla's roots vouch for under the relay's own name.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::reply::{Stage, silence};
use crate::channel::outcome::Refusal;

/// Who is believed to be a relay; made once, for it remembers sessions.
#[derive(Clone)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Whoever Mozilla's roots vouch for.
    ///
    /// # Errors
    /// The TLS of this program cannot be set up.
    pub(super) fn of_the_web() -> Result<Self, rustls::Error> {
        crate::tls::client_config().map(Self::new)
    }

    pub(super) fn new(mut settings: ClientConfig) -> Self {
        // Mail has no name in that list, and a server that knows only others might refuse.
        settings.alpn_protocols.clear();
        Self(Arc::new(settings))
    }
}

/// Shakes hands with `host` at the other end of `stream`.
///
/// # Errors
/// Nothing was sent.
pub(super) async fn shake_hands(
    trust: &Trust,
    host: &str,
    stream: TcpStream,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| silence(Stage::Connect, "tls_settings"))?;
    let handshake = TlsConnector::from(Arc::clone(&trust.0)).connect(name, stream);
    match timeout(limit, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_distrust(&error) => Err(silence(Stage::Connect, "certificate")),
        Ok(Err(_)) => Err(silence(Stage::Connect, "lost")),
        Err(_) => Err(silence(Stage::Connect, "timeout")),
    }
}

/// Whether the server showed a certificate that is not believed.
fn is_distrust(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::channel::email::fake_tls::{acceptor, trust};

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server that greets over TLS, once.
    async fn server() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor().accept(stream).await {
                let _ = stream.write_all(b"220 hello\r\n").await;
                let _ = stream.read(&mut [0; 64]).await;
            }
        });
        TcpStream::connect(address).await.unwrap()
    }

    #[tokio::test]
    async fn a_server_is_believed_under_its_own_name_and_by_whoever_is_trusted() {
        let mut stream = shake_hands(&trust(), "localhost", server().await, LIMIT).await.unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        let refused = silence(Stage::Connect, "certificate");
        let other = shake_hands(&trust(), "elsewhere", server().await, LIMIT).await;
        assert_eq!(other.unwrap_err(), refused);
        let web = Trust::of_the_web().unwrap();
        let unknown = shake_hands(&web, "localhost", server().await, LIMIT).await;
        assert_eq!(unknown.unwrap_err(), refused);
    }
}
