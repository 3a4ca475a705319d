//! The bytes of an SMTP connection: lines in, mails in, replies out.
//! It exists so that line ends, dots and limits are judged before anything is interpreted.
//! It must never take a bare newline for the end of a line: that is how one mail becomes two.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::was_refused;
use crate::smtp::commands::MAX_LINE_BYTES;
use crate::smtp::replies::{self, MAX_MAIL_BYTES, Reply};

/// A text line with its CRLF, RFC 5321.
const MAX_TEXT_LINE_BYTES: usize = 1000;

/// The connection is over, for whatever reason.
pub(crate) struct Over;

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    inbox: Vec<u8>,
    unread: bool,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            unread: false,
        }
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(&self) -> Over {
        let _ = self.stream.set_zero_linger();
        Over
    }

    /// Ends the connection after what was written has gone out.
    pub(crate) async fn close(&mut self) -> Over {
        let _ = self.stream.shutdown().await;
        Over
    }

    /// Says nothing until the client leaves.
    pub(crate) async fn hang(&mut self) -> Over {
        let mut sink = [0_u8; 4096];
        while self.stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        Over
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let written = self.stream.write_all(bytes).await;
        self.unread |= written.is_err();
        written.map_err(|_| Over)
    }

    /// Whether the client did not stay for the last reply.
    pub(crate) fn was_left_unread(&self) -> bool {
        self.unread
    }

    async fn fill(&mut self) -> Result<(), Over> {
        match self.stream.read_buf(&mut self.inbox).await {
            Ok(n) if n > 0 => Ok(()),
            end => {
                self.unread |= end.is_err() || was_refused(&self.stream);
                Err(Over)
            }
        }
    }

    /// The next command line without its CRLF, or the reply to what is none.
    pub(crate) async fn line(&mut self) -> Result<Result<String, Reply>, Over> {
        loop {
            if let Some(at) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.inbox.drain(..=at).collect();
                line.pop();
                if line.pop() != Some(b'\r') {
                    return Ok(Err(replies::BARE_NEWLINE));
                }
                let clean = !line.iter().any(|byte| matches!(byte, b'\r' | 0));
                return Ok(String::from_utf8(line).ok().filter(|_| clean).ok_or(replies::UNKNOWN));
            }
            if self.inbox.len() > MAX_LINE_BYTES {
                self.write(replies::TOO_LONG.wire().as_bytes()).await?;
                return Err(self.close().await);
            }
            self.fill().await?;
        }
    }

    /// The mail up to its final dot, dots unstuffed, or the reply to one that is malformed.
    pub(crate) async fn text(&mut self) -> Result<Result<Vec<u8>, Reply>, Over> {
        let mut mail = Vec::new();
        let mut wrong = None;
        // Everything before this offset is taken; everything before `scanned` holds no further newline.
        let (mut taken, mut scanned) = (0, 0);
        let mut line_began = true;
        loop {
            let newline = self.inbox.iter().skip(scanned).position(|byte| *byte == b'\n');
            let Some(at) = newline else {
                self.inbox.drain(..taken);
                (taken, scanned) = (0, self.inbox.len());
                if self.inbox.len() > MAX_MAIL_BYTES {
                    return Err(Over);
                }
                self.fill().await?;
                continue;
            };
            let end = scanned + at + 1;
            let line = self.inbox.get(taken..end).unwrap_or(&[]);
            // A dot after a bare newline ends nothing.
            if line_began && line == b".\r\n" {
                self.inbox.drain(..end);
                return Ok(wrong.map_or(Ok(mail), Err));
            }
            let text = line.strip_suffix(b"\r\n");
            line_began = text.is_some();
            if text.is_none_or(|text| text.contains(&b'\r')) {
                wrong.get_or_insert(Reply::new(554, "5.6.0 Bare <CR> or <LF> in the message"));
            } else if line.len() > MAX_TEXT_LINE_BYTES {
                wrong.get_or_insert(Reply::new(554, "5.6.0 A line is longer than 998 characters"));
            } else if mail.len() + line.len() > MAX_MAIL_BYTES {
                wrong.get_or_insert(replies::TOO_BIG);
            }
            if wrong.is_none() {
                mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            (taken, scanned) = (end, end);
        }
    }
}
