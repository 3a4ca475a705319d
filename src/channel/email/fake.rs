//! A mail server that does what a test's script says, line by line, in the clear or over TLS, and keeps what it saw.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::fake_tls::acceptor;

/// What the server does at one step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Do {
    /// What a willing server would.
    Agree,
    /// Answers this instead.
    Say(&'static str),
    /// Answers this after a delay.
    Late(u64, &'static str),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Close,
    /// Answers this over and over until nobody listens any more.
    Endless(&'static str),
    /// Answers this, its line ends included, and shakes hands.
    Upgrade(&'static str),
}

/// One step, as the script sees it: which connection (from 0), and the command's verb (`CONNECT` for the greeting,
/// `BODY` for the final dot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) connection: usize,
    pub(super) verb: String,
    pub(super) line: String,
    /// Said over TLS.
    pub(super) secure: bool,
}

#[derive(Default)]
struct Seen {
    steps: Vec<Step>,
    connections: usize,
    open: usize,
    most_open: usize,
    accepted: Vec<String>,
}

/// The server.
#[derive(Clone)]
pub(super) struct Smtp {
    pub(super) port: u16,
    seen: Arc<Mutex<Seen>>,
}

type Script = dyn Fn(&Step) -> Do + Send + Sync;

impl Smtp {
    /// In the clear until the script says [`Do::Upgrade`].
    pub(super) async fn start(script: impl Fn(&Step) -> Do + Send + Sync + 'static) -> Self {
        Self::listen(false, script).await
    }

    /// TLS from the first byte on.
    pub(super) async fn start_secure(script: impl Fn(&Step) -> Do + Send + Sync + 'static) -> Self {
        Self::listen(true, script).await
    }

    async fn listen(secure: bool, script: impl Fn(&Step) -> Do + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self {
            port,
            seen: Arc::default(),
        };
        let (seen, script): (_, Arc<Script>) = (server.seen.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = {
                    let mut seen = seen.lock().unwrap();
                    seen.connections += 1;
                    seen.open += 1;
                    seen.most_open = seen.most_open.max(seen.open);
                    seen.connections - 1
                };
                let (seen, script) = (seen.clone(), script.clone());
                tokio::spawn(async move {
                    let _ = talk(stream, secure, connection, &seen, &*script).await;
                    seen.lock().unwrap().open -= 1;
                });
            }
        });
        server
    }

    /// Every step seen, in order.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.seen.lock().unwrap().steps.clone()
    }

    /// Every verb seen, in order.
    pub(super) fn verbs(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.steps.iter().map(|step| step.verb.clone()).collect()
    }

    pub(super) fn count(&self, verb: &str) -> usize {
        self.verbs().iter().filter(|seen| *seen == verb).count()
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(super) fn most_open(&self) -> usize {
        self.seen.lock().unwrap().most_open
    }

    /// The mails it answered with 2xx, as they came over the wire.
    pub(super) fn accepted(&self) -> Vec<String> {
        self.seen.lock().unwrap().accepted.clone()
    }

    /// Waits until something has been seen.
    pub(super) async fn until(&self, what: &str, seen: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !seen(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .expect(what);
    }
}

fn agreement(verb: &str) -> &'static str {
    match verb {
        "CONNECT" => "220 fake ESMTP",
        "EHLO" => "250-fake\r\n250-8BITMIME\r\n250 AUTH PLAIN",
        "AUTH" => "235 2.7.0 ok",
        "DATA" => "354 go on",
        "QUIT" => "221 bye",
        "BODY" => "250 2.0.0 Ok: queued as Q1",
        _ => "250 2.1.0 ok",
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

/// What comes after a part of a conversation.
enum Then {
    Over,
    ShakeHands,
}

/// One connection: a conversation, or one in the clear and one over TLS.
async fn talk(
    stream: TcpStream,
    mut secure: bool,
    connection: usize,
    seen: &Mutex<Seen>,
    script: &Script,
) -> std::io::Result<()> {
    let mut first = "CONNECT";
    let mut stream: Box<dyn Wire> = if secure {
        Box::new(acceptor().accept(stream).await?)
    } else {
        Box::new(stream)
    };
    loop {
        let mut said = BufReader::new(stream);
        match serve(&mut said, first, secure, connection, seen, script).await? {
            Then::Over => return Ok(()),
            Then::ShakeHands => {
                stream = Box::new(acceptor().accept(said.into_inner()).await?);
                (first, secure) = ("", true);
            }
        }
    }
}

/// Answers line after line; `first`: what the script is asked before anything was said, or nothing.
async fn serve(
    stream: &mut BufReader<Box<dyn Wire>>,
    first: &str,
    secure: bool,
    connection: usize,
    seen: &Mutex<Seen>,
    script: &Script,
) -> std::io::Result<Then> {
    let mut line = first.to_owned();
    let mut verb = line.clone();
    let mut body = String::new();
    loop {
        if verb.is_empty() {
            if stream.read_line(&mut line).await? == 0 {
                return Ok(Then::Over);
            }
            verb = line.split([' ', '\r']).next().unwrap().to_ascii_uppercase();
        }
        let step = Step {
            connection,
            verb: verb.clone(),
            line: line.trim_end().to_owned(),
            secure,
        };
        seen.lock().unwrap().steps.push(step.clone());
        let reply = match script(&step) {
            Do::Agree => agreement(&verb),
            Do::Say(reply) => reply,
            Do::Late(millis, reply) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                reply
            }
            Do::Hang => {
                // Until the client gives up.
                let mut rest = String::new();
                while stream.read_line(&mut rest).await? > 0 {}
                return Ok(Then::Over);
            }
            Do::Close => return Ok(Then::Over),
            Do::Endless(text) => loop {
                stream.get_mut().write_all(text.as_bytes()).await?;
            },
            Do::Upgrade(reply) => {
                stream.get_mut().write_all(reply.as_bytes()).await?;
                return Ok(Then::ShakeHands);
            }
        };
        if verb == "BODY" && reply.starts_with('2') {
            seen.lock().unwrap().accepted.push(std::mem::take(&mut body));
        }
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await?;
        stream.get_mut().flush().await?;
        if verb == "QUIT" {
            return Ok(Then::Over);
        }
        let mail = verb == "DATA" && reply.starts_with("354");
        verb.clear();
        line.clear();
        if mail {
            body = match mail_text(stream).await? {
                Some(text) => text,
                None => return Ok(Then::Over),
            };
            "BODY".clone_into(&mut verb);
            ".".clone_into(&mut line);
        }
    }
}

/// What comes before the final dot; `None` where the client went away.
async fn mail_text(stream: &mut BufReader<Box<dyn Wire>>) -> std::io::Result<Option<String>> {
    let (mut text, mut line) = (String::new(), String::new());
    while line != ".\r\n" {
        text.push_str(&line);
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(text))
}
