//! One SMTP connection: lettre's, with a deadline around every command.
//!
//! Why not lettre's own transport: its pool opens connections without bound, its time-out covers connecting only, it
//! closes the connection after every refused recipient, and a send dropped half-way goes back into the pool, where
//! the next message reads the stale replies as its own: a refused mail was reported as sent.
//!
//! It must never survive doubt: every method takes the connection by value and gives it back only when both sides
//! agree on what comes next. A time-out, a dropped future or an unexpected reply closes it.

use std::{borrow::Cow, error::Error as _, fmt::Display, future::Future, time::Duration};

use lettre::{
    Address,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailParameter},
        response::Response,
    },
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    capped::Capped,
    handshake::{Trust, shake_hands},
    reply::{Stage, queue_id, refusal, silence},
    starttls::ask_for_tls,
};
use crate::channel::{
    outcome::{ErrorClass, Refusal, SendOutcome},
    sender::MailTls,
};

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// Resolve, connect, shake hands.
    pub(super) connect: Duration,
    /// The answer to one command.
    pub(super) command: Duration,
    /// Everything before the body, waiting for a connection included.
    pub(super) prepare: Duration,
    /// Writing the body and the answer to it.
    pub(super) body: Duration,
}

/// Where to connect and as whom.
pub(super) struct Relay {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: MailTls,
    pub(super) trust: Trust,
    pub(super) login: Option<Credentials>,
    pub(super) hello: ClientId,
    pub(super) deadlines: Deadlines,
}

/// A connection between two messages.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    deadlines: Deadlines,
    /// The server still holds the rest of a refused transaction.
    needs_reset: bool,
    /// When the message it carries must have come to its body.
    prepare_until: Instant,
    /// Messages it has carried.
    pub(super) carried: u32,
    /// Since when it waits for the next message; the pool's to set.
    pub(super) idle_since: Instant,
}

/// What became of a message, and the connection if it can carry another.
pub(super) type Carried = (SendOutcome, Option<Connection>);

/// A command that did not go as it should.
enum Fault {
    /// 4xx or 5xx, the server's number and text.
    Refused(u16, String),
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Lost,
    /// An answer that makes no sense here.
    Nonsense,
}

impl Fault {
    fn refusal(&self, stage: Stage) -> Refusal {
        match self {
            Self::Refused(code, text) => refusal(stage, *code, text),
            Self::Timeout => silence(stage, "timeout"),
            Self::Lost => silence(stage, "lost"),
            Self::Nonsense => silence(stage, "protocol"),
        }
    }

    /// Whether the connection can go on: 421 announces that the server is closing it.
    fn leaves_open(&self) -> bool {
        matches!(self, Self::Refused(code, _) if *code != 421)
    }

    /// The way an idle connection shows that the server has given it up.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Lost | Self::Refused(421, _))
    }
}

/// Why a message did not get through on this connection.
pub(super) enum Trouble {
    /// The connection was dead before the message began: another one may be tried at once.
    Stale(Refusal),
    /// What became of it.
    Final(Box<Carried>),
}

impl Relay {
    /// Connects, greets, secures, logs in.
    ///
    /// # Errors
    /// It did not come so far; nothing was sent.
    pub(super) async fn connect(&self) -> Result<Connection, Refusal> {
        let mut stream = self.reach().await?;
        let limit = self.deadlines.connect;
        let mut smtp = match self.tls {
            MailTls::None => self.greet(Capped::new(stream)).await?,
            MailTls::Implicit => {
                let stream = shake_hands(&self.trust, &self.host, stream, limit).await?;
                self.greet(Capped::new(stream)).await?
            }
            MailTls::Starttls => {
                ask_for_tls(&mut stream, &self.hello, self.deadlines.command).await?;
                let stream = shake_hands(&self.trust, &self.host, stream, limit).await?;
                self.greet(Capped::greeted(stream)).await?
            }
        };
        self.log_in(&mut smtp).await?;
        Ok(Connection {
            smtp,
            deadlines: self.deadlines,
            needs_reset: false,
            prepare_until: Instant::now(),
            carried: 0,
            idle_since: Instant::now(),
        })
    }

    async fn reach(&self) -> Result<TcpStream, Refusal> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match timeout(self.deadlines.connect, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(silence(Stage::Connect, "failed")),
            Err(_) => return Err(silence(Stage::Connect, "timeout")),
        };
        // Without it every reply to a small command may wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn greet(&self, stream: impl AsyncTokioStream + 'static) -> Result<AsyncSmtpConnection, Refusal> {
        let greeting = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello);
        within(self.deadlines.command, greeting)
            .await
            .map_err(|fault| fault.refusal(Stage::Hello))
    }

    async fn log_in(&self, smtp: &mut AsyncSmtpConnection) -> Result<(), Refusal> {
        let Some(login) = &self.login else {
            return Ok(());
        };
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if smtp.server_info().get_auth_mechanism(&mechanisms).is_none() {
            return Err(Refusal::new(ErrorClass::Credentials, "auth_unsupported"));
        }
        let reply = within(self.deadlines.command, smtp.auth(&mechanisms, login)).await;
        match reply {
            Ok(reply) if number(&reply) == 235 => Ok(()),
            Ok(_) => Err(silence(Stage::Auth, "protocol")),
            Err(fault) => Err(fault.refusal(Stage::Auth)),
        }
    }
}

impl Connection {
    /// Carries one message. Accepted means: the server answered 2xx to the final dot. One whose body cannot be begun by
    /// `prepare_until` is not sent.
    ///
    /// # Errors
    /// The connection turns out to have been dead before the message began.
    pub(super) async fn carry(
        mut self,
        from: &Address,
        to: &Address,
        mail: &str,
        prepare_until: Instant,
    ) -> Result<Carried, Trouble> {
        let reused = self.carried > 0;
        let utf8 = !AsRef::<str>::as_ref(to).is_ascii();
        if utf8 && !self.smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
            let refusal = Refusal::new(ErrorClass::Recipient, "smtputf8_unsupported");
            return Ok((refusal.into(), Some(self)));
        }
        self.carried += 1;
        self.prepare_until = prepare_until;
        if self.needs_reset {
            // A server that cannot even do this gets a new connection, like one that is gone.
            let reset = self.say("RSET\r\n", 200..300).await;
            reset.map_err(|fault| Trouble::Stale(fault.refusal(Stage::Reset)))?;
            self.needs_reset = false;
        }
        let parameters = if utf8 {
            vec![MailParameter::SmtpUtfEight]
        } else {
            Vec::new()
        };
        let reply = self.say(Mail::new(Some(from.clone()), parameters), 200..300).await;
        self = self.after(Stage::Mail, reply, reused, false)?;
        let reply = self.say(Rcpt::new(to.clone(), Vec::new()), 200..300).await;
        self = self.after(Stage::Rcpt, reply, false, true)?;
        let reply = self.say(Data, 354..355).await;
        self = self.after(Stage::Data, reply, false, true)?;
        Ok(self.body(mail).await)
    }

    /// One write for the whole body: two would wait for each other's acknowledgement.
    async fn body(mut self, mail: &str) -> Carried {
        let mut text = stuffed(mail).into_owned();
        text.push_str(if text.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" });
        let reply = within(self.deadlines.body, self.smtp.command(text)).await;
        match reply {
            Ok(reply) if (200..300).contains(&number(&reply)) => {
                let id = reply.message().find_map(queue_id);
                (SendOutcome::accepted(id), Some(self))
            }
            Ok(_) => (Fault::Nonsense.refusal(Stage::Body).into(), None),
            Err(fault) => {
                let open = fault.leaves_open();
                (fault.refusal(Stage::Body).into(), open.then_some(self))
            }
        }
    }

    /// Goes on after a command that went well; else says what became of the message and of the connection.
    fn after(
        mut self,
        stage: Stage,
        reply: Result<(), Fault>,
        may_be_stale: bool,
        in_transaction: bool,
    ) -> Result<Self, Trouble> {
        let Err(fault) = reply else {
            return Ok(self);
        };
        let refusal = fault.refusal(stage);
        if may_be_stale && fault.is_stale() {
            return Err(Trouble::Stale(refusal));
        }
        self.needs_reset = in_transaction;
        let open = fault.leaves_open();
        Err(Trouble::Final(Box::new((refusal.into(), open.then_some(self)))))
    }

    async fn say(&mut self, command: impl Display, expected: std::ops::Range<u16>) -> Result<(), Fault> {
        let left = self.prepare_until.saturating_duration_since(Instant::now());
        let limit = self.deadlines.command.min(left);
        let reply = within(limit, self.smtp.command(command)).await?;
        if expected.contains(&number(&reply)) {
            Ok(())
        } else {
            Err(Fault::Nonsense)
        }
    }

    /// Says goodbye, for as long as one command may take.
    pub(super) async fn close(mut self) {
        let _ = timeout(self.deadlines.command, self.smtp.quit()).await;
    }
}

/// Runs a step of lettre's within a deadline.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
) -> Result<T, Fault> {
    match timeout(limit, step).await {
        Err(_) => Err(Fault::Timeout),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.status() {
            Some(code) => {
                let text = error.source().map(ToString::to_string).unwrap_or_default();
                Fault::Refused(u16::from(code), text)
            }
            None => Fault::Lost,
        }),
    }
}

fn number(reply: &Response) -> u16 {
    u16::from(reply.code())
}

/// Doubles a dot at the start of a line (RFC 5321 §4.5.2).
fn stuffed(mail: &str) -> Cow<'_, str> {
    let body = if mail.contains("\n.") {
        Cow::Owned(mail.replace("\n.", "\n.."))
    } else {
        Cow::Borrowed(mail)
    };
    if body.starts_with('.') {
        return Cow::Owned(format!(".{body}"));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_begins_with_a_dot_does_not_end_the_mail() {
        assert_eq!(stuffed("a\r\n.\r\n.b"), "a\r\n..\r\n..b");
        assert_eq!(stuffed(".a"), "..a");
        assert!(matches!(stuffed("a.b\r\nc"), Cow::Borrowed(_)));
    }
}
