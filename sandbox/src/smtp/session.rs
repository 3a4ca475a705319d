//! One SMTP connection from greeting to QUIT: what may come when, and what each command does.
//! It exists to be exact about sequence, because a client that loses count of replies reports refused mail as sent.
//! It must never answer before the command is complete, and never counts a mail before its final dot.
//! Commands sent ahead of their turn are answered in order, as a lenient relay would: that is how a desynchronised
//! client is caught.

use std::sync::Arc;

use tokio::net::TcpStream;

use crate::channel::Channel;
use crate::faults::{FaultKind, Hit};
use crate::smtp::commands::{self, Command};
use crate::smtp::envelope::Envelope;
use crate::smtp::replies::{self, MAX_MAIL_BYTES, Reply};
use crate::smtp::wire::{Over, Wire};
use crate::smtp::{Login, mail};
use crate::state::State;
use crate::traffic::Traffic;

const MAX_RECIPIENTS: usize = 100;
struct Session {
    wire: Wire,
    state: Arc<State>,
    extended: bool,
    greeted: bool,
    login: Option<Arc<Login>>,
    envelope: Option<Envelope>,
    /// Whose mail the last reply is about, if it is about a whole one.
    about: Option<String>,
}

/// Serves one connection until it closes.
pub(crate) async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut session = Session {
        wire: Wire::new(stream),
        state,
        extended: false,
        greeted: false,
        login: None,
        envelope: None,
        about: None,
    };
    // Every way out of a session is a normal one; there is nobody to tell.
    let _ = session.run().await;
    if let Some(recipient) = session.about.filter(|_| session.wire.was_left_unread()) {
        session.state.traffic(Channel::Smtp).left_unread(&recipient);
    }
}

impl Session {
    async fn run(&mut self) -> Result<(), Over> {
        self.traffic().connected();
        let hit = self.ask("connect", &[]);
        self.reply(&hit, replies::GREETING).await?;
        loop {
            let line = match self.wire.line().await? {
                Ok(line) => line,
                Err(reply) => {
                    self.reply(&Hit::default(), reply).await?;
                    continue;
                }
            };
            self.about = None;
            let utf8 = self.envelope.as_ref().is_some_and(|envelope| envelope.sender.utf8);
            match commands::parse(&line, utf8) {
                Ok(command) => self.command(command).await?,
                Err(reply) => self.reply(&Hit::default(), reply).await?,
            }
        }
    }

    fn traffic(&self) -> &Traffic {
        self.state.traffic(Channel::Smtp)
    }

    fn ask(&self, stage: &str, recipients: &[String]) -> Hit {
        self.state.faults.ask(Channel::Smtp, stage, |set| {
            recipients.iter().find_map(|recipient| set.get(recipient))
        })
    }

    async fn command(&mut self, command: Command) -> Result<(), Over> {
        match command {
            Command::Hello { extended } => self.hello(extended).await,
            Command::AuthPlain { initial } => self.auth(initial, true).await,
            Command::AuthLogin { initial } => self.auth(initial, false).await,
            Command::Mail(sender) => {
                let reply = self.may_start_mail();
                let hit = if reply.is_none() {
                    self.ask("mail", &[])
                } else {
                    Hit::default()
                };
                if reply.is_none() && hit.before().is_none() {
                    self.envelope = Some(Envelope { sender, to: Vec::new() });
                }
                self.reply(&hit, reply.unwrap_or(Reply::new(250, "2.1.0 Ok"))).await
            }
            Command::Recipient(address) => self.recipient(address).await,
            Command::Data => self.data().await,
            Command::Reset => {
                self.envelope = None;
                self.reply(&Hit::default(), replies::OK).await
            }
            Command::Noop => self.reply(&Hit::default(), replies::OK).await,
            Command::Verify => {
                self.reply(&Hit::default(), Reply::new(252, "2.5.0 Cannot verify"))
                    .await
            }
            Command::Help => self.reply(&Hit::default(), Reply::new(214, "2.0.0 See RFC 5321")).await,
            Command::Quit => {
                self.reply(&Hit::default(), replies::BYE).await?;
                Err(Over)
            }
        }
    }

    async fn hello(&mut self, extended: bool) -> Result<(), Over> {
        let hit = self.ask("ehlo", &[]);
        if hit.before().is_none() {
            (self.greeted, self.extended, self.envelope) = (true, extended, None);
        }
        let reply = if extended {
            let auth = if self.state.smtp.requires_login() {
                "AUTH PLAIN LOGIN\n"
            } else {
                ""
            };
            let text = format!("sandbox.invalid\nSIZE {MAX_MAIL_BYTES}\n8BITMIME\nSMTPUTF8\n{auth}ENHANCEDSTATUSCODES");
            Reply::owned(250, text)
        } else {
            Reply::new(250, "sandbox.invalid")
        };
        self.reply(&hit, reply).await
    }

    async fn auth(&mut self, initial: Option<String>, plain: bool) -> Result<(), Over> {
        if !self.extended || self.login.is_some() || self.envelope.is_some() {
            return self.reply(&Hit::default(), replies::BAD_SEQUENCE).await;
        }
        if !self.state.smtp.requires_login() {
            return self
                .reply(&Hit::default(), Reply::new(502, "5.5.1 AUTH is not offered"))
                .await;
        }
        let exchange = if plain {
            self.auth_plain(initial).await?
        } else {
            self.auth_login(initial).await?
        };
        let (user, password) = match exchange {
            Ok(credentials) => credentials,
            Err(reply) => return self.reply(&Hit::default(), reply).await,
        };
        let Some(login) = self.state.smtp.login(&user, &password) else {
            return self.reply(&Hit::default(), replies::BAD_LOGIN).await;
        };
        let hit = self.ask("auth", &[]);
        if hit.before().is_none() {
            self.login = Some(login);
        }
        self.reply(&hit, replies::LOGGED_IN).await
    }

    async fn auth_plain(&mut self, initial: Option<String>) -> Result<Result<(String, String), Reply>, Over> {
        let response = match initial {
            Some(initial) => Ok(initial),
            None => self.challenge("").await?,
        };
        Ok(response.and_then(|response| commands::decode_plain(&response)))
    }

    async fn auth_login(&mut self, initial: Option<String>) -> Result<Result<(String, String), Reply>, Over> {
        let user = match initial {
            Some(initial) => Ok(initial),
            // "Username:" and "Password:".
            None => self.challenge("VXNlcm5hbWU6").await?,
        };
        let user = match user.and_then(|user| commands::decode_login(&user)) {
            Ok(user) => user,
            Err(reply) => return Ok(Err(reply)),
        };
        let password = self.challenge("UGFzc3dvcmQ6").await?;
        Ok(password
            .and_then(|password| commands::decode_login(&password))
            .map(|password| (user, password)))
    }

    /// Sends a 334 and reads the answer.
    async fn challenge(&mut self, text: &'static str) -> Result<Result<String, Reply>, Over> {
        self.wire.write(Reply::new(334, text).wire().as_bytes()).await?;
        let line = self.wire.line().await?;
        Ok(line.and_then(|line| {
            if line == "*" {
                Err(Reply::new(501, "5.7.0 Cancelled"))
            } else {
                Ok(line)
            }
        }))
    }

    /// Why a mail may not start now; `None` when it may.
    fn may_start_mail(&self) -> Option<Reply> {
        self.traffic().requested();
        let login = match &self.login {
            Some(login) => Arc::clone(login),
            None if !self.greeted || self.envelope.is_some() => return Some(replies::BAD_SEQUENCE),
            None if self.state.smtp.requires_login() => return Some(replies::AUTH_REQUIRED),
            None => self.state.smtp.anonymous(),
        };
        if !self.greeted || self.envelope.is_some() {
            return Some(replies::BAD_SEQUENCE);
        }
        let now = self.state.clock.elapsed();
        if !login.pace.admit(&self.traffic().cap, now) {
            return Some(replies::RATE);
        }
        login.pace.note(now);
        None
    }

    async fn recipient(&mut self, address: String) -> Result<(), Over> {
        let full = match &self.envelope {
            None => return self.reply(&Hit::default(), replies::BAD_SEQUENCE).await,
            Some(envelope) => envelope.to.len() >= MAX_RECIPIENTS,
        };
        if full {
            return self.reply(&Hit::default(), replies::TOO_MANY).await;
        }
        let hit = self.ask("rcpt", std::slice::from_ref(&address));
        if hit.before().is_none()
            && let Some(envelope) = &mut self.envelope
        {
            envelope.to.push(address);
        }
        self.reply(&hit, Reply::new(250, "2.1.5 Ok")).await
    }

    async fn data(&mut self) -> Result<(), Over> {
        let Some(envelope) = self.envelope.clone().filter(|envelope| !envelope.to.is_empty()) else {
            return self.reply(&Hit::default(), replies::BAD_SEQUENCE).await;
        };
        let hit = self.ask("data", &envelope.to);
        let refused =
            hit.before().is_some() || matches!(hit.kind, Some(FaultKind::ReplyAfter | FaultKind::ServerErrorAfter));
        self.reply(&hit, replies::START_DATA).await?;
        if refused {
            return Ok(());
        }
        let raw = self.wire.text().await?;
        self.envelope = None;
        let content = raw.and_then(|raw| {
            mail::read(
                &raw,
                envelope.sender.eight_bit,
                envelope.sender.utf8,
                self.state.keep_bodies,
                self.state.keep_marks.then_some(&*envelope.sender.return_path),
            )
        });
        let content = match content {
            Ok(content) => content,
            Err(reply) => return self.reply(&Hit::default(), reply).await,
        };
        let hit = self.ask("body", &envelope.to);
        self.about = envelope.to.first().cloned();
        if hit.before().is_none() {
            let traffic = self.traffic();
            traffic.received.record(
                self.state.clock.real_ms(),
                content,
                envelope.to.iter().map(String::as_str),
            );
            traffic.accepted();
        }
        self.reply(&hit, Reply::new(250, "2.0.0 Ok: queued")).await
    }

    /// Sends `normal`, or whatever the fault makes of it.
    async fn reply(&mut self, hit: &Hit, normal: Reply) -> Result<(), Over> {
        if let Some(kind) = hit.kind {
            self.traffic().struck(kind);
        }
        let delay = self.traffic().latency() + hit.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match hit.kind {
            Some(FaultKind::ResetBefore | FaultKind::ResetAfter) => return Err(self.wire.reset()),
            Some(FaultKind::Hang | FaultKind::HangAfter) => return Err(self.wire.hang().await),
            Some(FaultKind::Truncated) => {
                self.wire.write(b"25").await?;
                return Err(self.wire.close().await);
            }
            Some(FaultKind::Garbage) => {
                return self.wire.write(b"<html>It works!</html>\r\n").await;
            }
            _ => {}
        }
        let reply = replies::of_fault(hit).unwrap_or(normal);
        if reply.code >= 400 {
            self.traffic().refused(reply.code);
        }
        self.wire.write(reply.wire().as_bytes()).await?;
        if reply.code == 421 {
            return Err(self.wire.close().await);
        }
        Ok(())
    }
}
