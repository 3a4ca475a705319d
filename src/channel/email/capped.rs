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
/// What lettre, which waits for a greeting, hears where the server gave its own in the clear. A text of ours: nothing that was said
/// in the clear comes in.
const GREETING: &[u8] = b"220 TLS\r\n";

/// A stream that breaks where the server says too much.
#[derive(Debug)]
pub(super) struct Capped<S> {
    stream: S,
    /// Heard before anything of the server's.
    greeting: &'static [u8],
    /// How much it may say before it hears from us, in bytes.
    cap: usize,
    left: usize,
}

impl<S> Capped<S> {
    /// A server that has said nothing yet.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            greeting: &[],
            cap: REPLY_BYTES,
            left: REPLY_BYTES,
        }
    }

    /// A server that greeted before `stream` was made.
    pub(super) fn greeted(stream: S) -> Self {
        Self {
            greeting: GREETING,
            ..Self::new(stream)
        }
    }

    fn spoke(&mut self) {
        self.left = self.cap;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.greeting.is_empty() {
            let (now, later) = this.greeting.split_at(this.greeting.len().min(buf.remaining()));
            buf.put_slice(now);
            this.greeting = later;
            return Poll::Ready(Ok(()));
        }
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
        let mut ours = Capped {
            cap: 10,
            left: 10,
            ..Capped::new(ours)
        };
        let mut heard = [0; 10];
        for _ in 0..3 {
            server.write_all(b"0123456789").await.unwrap();
            ours.read_exact(&mut heard).await.unwrap();
            ours.write_all(b"NOOP").await.unwrap();
        }
        server.write_all(b"0123456789!").await.unwrap();
        ours.read_exact(&mut heard).await.unwrap();
        let error = ours.read(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_greeting_of_ours_comes_before_whatever_the_server_says_and_is_whole_in_any_pieces() {
        for piece in 1..=GREETING.len() + 1 {
            let (mut server, ours) = duplex(1_000);
            server.write_all(b"250 hi\r\n").await.unwrap();
            drop(server);
            let mut ours = Capped::greeted(ours);
            let (mut heard, mut buf) = (Vec::new(), vec![0; piece]);
            loop {
                let n = ours.read(&mut buf).await.unwrap();
                if n == 0 {
                    break;
                }
                heard.extend_from_slice(buf.get(..n).unwrap());
            }
            assert_eq!(heard, b"220 TLS\r\n250 hi\r\n", "{piece}");
        }
    }
}
