//! A mail server that does what a test's script says, line by line, and keeps what it saw.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

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
}

/// One step, as the script sees it: which connection (from 0), and the command's verb (`CONNECT` for the greeting,
/// `BODY` for the final dot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) connection: usize,
    pub(super) verb: String,
    pub(super) line: String,
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
    pub(super) async fn start(script: impl Fn(&Step) -> Do + Send + Sync + 'static) -> Self {
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
                    let _ = serve(stream, connection, &seen, &*script).await;
                    seen.lock().unwrap().open -= 1;
                });
            }
        });
        server
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

async fn serve(stream: TcpStream, connection: usize, seen: &Mutex<Seen>, script: &Script) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = "CONNECT".to_owned();
    let mut verb = line.clone();
    let mut body = String::new();
    loop {
        let step = Step {
            connection,
            verb: verb.clone(),
            line: line.trim_end().to_owned(),
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
                return Ok(());
            }
            Do::Close => return Ok(()),
        };
        if verb == "BODY" && reply.starts_with('2') {
            seen.lock().unwrap().accepted.push(std::mem::take(&mut body));
        }
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await?;
        if verb == "QUIT" {
            return Ok(());
        }
        if verb == "DATA" && reply.starts_with("354") {
            body.clear();
            loop {
                line.clear();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                if line == ".\r\n" {
                    break;
                }
                body.push_str(&line);
            }
            "BODY".clone_into(&mut verb);
            continue;
        }
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        verb = line.split([' ', '\r']).next().unwrap().to_ascii_uppercase();
    }
}
