//! A mail server's bytes, and no more of them for one answer than any honest one needs.
//!
//! Why it exists: lettre reads a line to its end, however far away that is, and reads a reply of many lines anew from its first with
//! every line. A server that never ends its line filled the memory; 100 KB of short lines kept a thread busy for a minute.
//!
//! It must never cut what a server says in answer to different commands: whatever we write begins a new count.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// The most of one reply. Long refusals and greetings have some hundred bytes.
pub(super) const REPLY_BYTES: usize = 8 * 1024;
/// The most of what a server says to shake hands: its certificates are in it.
pub(super) const HANDSHAKE_BYTES: usize = 32 * 1024;

/// How much a server may say before it hears from us; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Cap(Arc<AtomicUsize>);

impl Cap {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// From the next thing we write on.
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// A stream that breaks where the server says too much.
#[derive(Debug)]
pub(super) struct Capped<S> {
    stream: S,
    cap: Cap,
    left: usize,
}

impl<S> Capped<S> {
    pub(super) fn new(stream: S, cap: Cap) -> Self {
        let left = cap.0.load(Ordering::Relaxed);
        Self { stream, cap, left }
    }

    fn spoke(&mut self) {
        self.left = self.cap.0.load(Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let said = buf.filled().len().saturating_sub(before);
        match this.left.checked_sub(said) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Capped<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.spoke();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, parts))?;
        this.spoke();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsyncTokioStream for Capped<TcpStream> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncTokioStream for Capped<TlsStream<TcpStream>> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.peer_addr()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_server_says_so_much_and_more_only_when_it_is_spoken_to() {
        let (mut server, ours) = duplex(1_000);
        let cap = Cap::new(10);
        let mut ours = Capped::new(ours, cap.clone());
        let mut heard = [0; 10];
        for _ in 0..3 {
            server.write_all(b"0123456789").await.unwrap();
            ours.read_exact(&mut heard).await.unwrap();
            ours.write_all(b"NOOP").await.unwrap();
        }
        cap.set(5);
        server.write_all(b"0123456789").await.unwrap();
        // What was allowed when we last spoke.
        ours.read_exact(&mut heard).await.unwrap();
        ours.write_all(b"NOOP").await.unwrap();
        server.write_all(b"012345").await.unwrap();
        let error = ours.read(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
