//! STARTTLS: what is said in the clear before a relay's TLS begins (RFC 3207).
//!
//! Why not lettre's: it keeps what stands behind the `220` to STARTTLS and reads it as the answer to the first command under
//! TLS, so that whoever is on the wire could answer in the relay's place.
//!
//! It must never say more in the clear than EHLO and STARTTLS, nor carry anything heard in the clear over into what is encrypted.

use std::time::Duration;

use lettre::transport::smtp::{
    commands::{Ehlo, Starttls},
    extension::ClientId,
    response::Response,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    capped::REPLY_BYTES,
    reply::{Stage, refusal, silence},
};
use crate::channel::outcome::{ErrorClass, Refusal};

/// The answer that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Greeting,
    /// To EHLO.
    Offers,
    /// To STARTTLS.
    Leave,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Ask for this one.
    Ask(Awaited),
    ShakeHands,
}

impl Awaited {
    const fn stage(self) -> Stage {
        match self {
            Self::Greeting | Self::Offers => Stage::Hello,
            Self::Leave => Stage::Starttls,
        }
    }

    /// The command it answers; a greeting answers none.
    fn command(self, hello: &ClientId) -> Option<String> {
        match self {
            Self::Greeting => None,
            Self::Offers => Some(Ehlo::new(hello.clone()).to_string()),
            Self::Leave => Some(Starttls.to_string()),
        }
    }

    /// What follows from all that was heard since the command was said (pure); `None`: the answer has not ended yet.
    fn after(self, heard: &[u8]) -> Result<Option<Next>, Refusal> {
        let stage = self.stage();
        let Some((reply, behind)) = first_reply(heard) else {
            if heard.len() < REPLY_BYTES {
                return Ok(None);
            }
            return Err(silence(stage, "protocol"));
        };
        // Nothing was asked that it could answer. Behind the leave to begin, it is what somebody in between would add.
        if !behind.is_empty() {
            return Err(silence(stage, "injected"));
        }
        let reply = std::str::from_utf8(reply).ok().and_then(|text| text.parse().ok());
        let reply: Response = reply.ok_or_else(|| silence(stage, "protocol"))?;
        let code = u16::from(reply.code());
        match (self, code) {
            (_, 400..) => Err(refusal(stage, code, reply.first_line().unwrap_or_default())),
            (Self::Greeting, 200..300) => Ok(Some(Next::Ask(Self::Offers))),
            (Self::Offers, 200..300) if offers_tls(&reply) => Ok(Some(Next::Ask(Self::Leave))),
            // Never plain instead: the body and the password would be in the clear.
            (Self::Offers, 200..300) => Err(Refusal::new(ErrorClass::Credentials, "starttls_unsupported")),
            (Self::Leave, 220) => Ok(Some(Next::ShakeHands)),
            (Self::Greeting | Self::Offers | Self::Leave, _) => Err(silence(stage, "protocol")),
        }
    }
}

/// Splits behind the first line that does not announce another one.
fn first_reply(heard: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    for line in heard.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if line.ends_with(b"\n") && line.get(3) != Some(&b'-') {
            return heard.split_at_checked(end);
        }
    }
    None
}

/// The first line is the server's name.
fn offers_tls(reply: &Response) -> bool {
    let mut offers = reply
        .message()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    offers.any(|keyword| keyword.eq_ignore_ascii_case("STARTTLS"))
}

/// Comes to where `stream` must carry a TLS handshake next. `limit`: for each answer.
///
/// # Errors
/// It did not come so far; nothing was sent.
pub(super) async fn ask_for_tls<S>(stream: &mut S, hello: &ClientId, limit: Duration) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut awaited = Awaited::Greeting;
    loop {
        let asking = ask(stream, awaited, hello);
        match timeout(limit, asking).await {
            Ok(Ok(Next::Ask(next))) => awaited = next,
            Ok(Ok(Next::ShakeHands)) => return Ok(()),
            Ok(Err(refusal)) => return Err(refusal),
            Err(_) => return Err(silence(awaited.stage(), "timeout")),
        }
    }
}

/// Says a command and listens until its answer has ended.
async fn ask<S>(stream: &mut S, awaited: Awaited, hello: &ClientId) -> Result<Next, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let lost = |_| silence(awaited.stage(), "lost");
    if let Some(command) = awaited.command(hello) {
        stream.write_all(command.as_bytes()).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
    }
    let mut heard = Vec::with_capacity(REPLY_BYTES);
    loop {
        let said = stream.read_buf(&mut heard).await.map_err(lost)?;
        if said == 0 {
            return Err(silence(awaited.stage(), "lost"));
        }
        if let Some(next) = awaited.after(&heard)? {
            return Ok(next);
        }
    }
}

#[cfg(test)]
mod tests;
