//! The clients the tests use: HTTP with reqwest, SMTP as bare lines.
//! They exist so that a test reads as a conversation. They must never repair or retry anything.

use std::time::Duration;

use carillon_sandbox::{LINE_TOKEN, Running, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub(crate) async fn start() -> Running {
    Sandbox::start(SandboxConfig::default()).await.unwrap()
}

pub(crate) fn http() -> reqwest::Client {
    // Installing twice is the normal case here: every test does it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        // Nothing here uses TLS; loading the system's certificates for every client would take most of the time.
        .tls_certs_only([])
        .build()
        .unwrap()
}

/// A well-formed LINE user id for every number.
pub(crate) fn user(n: u32) -> String {
    format!("U{n:032x}")
}

pub(crate) fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// An answer taken apart.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or("")
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await?;
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Ok(Answer { status, headers, body })
}

/// Calls LINE with the well-known token.
pub(crate) async fn line(running: &Running, call: &str, body: &Value) -> Answer {
    let url = format!("{}/v2/bot/message/{call}", running.http_url());
    answer(http().post(url).bearer_auth(LINE_TOKEN).json(body))
        .await
        .unwrap()
}

/// As [`line`], with a retry key; the error is what a cut connection gives.
pub(crate) async fn keyed(running: &Running, call: &str, key: &str, body: &Value) -> Result<Answer, reqwest::Error> {
    let url = format!("{}/v2/bot/message/{call}", running.http_url());
    let request = http().post(url).bearer_auth(LINE_TOKEN);
    answer(request.header("X-Line-Retry-Key", key).json(body)).await
}

/// An SMTP client that sends what it is told and returns what it hears.
pub(crate) struct Mail {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Mail {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(running: &Running) -> Self {
        let mut mail = Self::silent(running).await;
        assert!(mail.hear().await.starts_with("220 "));
        mail
    }

    /// Connects without reading.
    pub(crate) async fn silent(running: &Running) -> Self {
        let stream = TcpStream::connect(running.smtp_addr).await.unwrap();
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
        }
    }

    /// Connects, greets and logs in.
    pub(crate) async fn ready(running: &Running) -> Self {
        let mut mail = Self::connect(running).await;
        assert!(mail.say("EHLO test.invalid").await.starts_with("250"));
        // \0sandbox\0sandbox-smtp-password
        let login = "AUTH PLAIN AHNhbmRib3gAc2FuZGJveC1zbXRwLXBhc3N3b3Jk";
        assert!(mail.say(login).await.starts_with("235 "));
        mail
    }

    /// One whole reply, lines joined by a newline; empty when the connection is over.
    pub(crate) async fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line).await.unwrap_or(0);
            reply.push_str(&line);
            if read == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return reply.replace("\r\n", "\n").trim_end().to_owned();
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Sends a line and returns the reply.
    pub(crate) async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.hear().await
    }

    /// Sends a mail to `to` after login and returns the reply to its final dot.
    pub(crate) async fn mail(&mut self, to: &str, body: &str) -> String {
        assert!(self.say("MAIL FROM:<shop@example.com>").await.starts_with("250 "));
        assert!(self.say(&format!("RCPT TO:<{to}>")).await.starts_with("250 "));
        assert!(self.say("DATA").await.starts_with("354 "));
        self.say(&format!("{HEADERS}\r\n{body}\r\n.")).await
    }

    /// True when the server has closed or reset the connection.
    pub(crate) async fn is_over(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        !matches!(self.reader.read(&mut byte).await, Ok(1))
    }
}

/// The headers of a valid mail.
pub(crate) const HEADERS: &str = "From: shop@example.com\r\nTo: a@example.com\r\n\
    Date: Sat, 21 Nov 2026 20:00:00 +0800\r\nMessage-ID: <1@example.com>\r\n\
    X-Broadcast-Id: b-1\r\nSubject: =?utf-8?B?5L2g5aW9?= there\r\n";

/// What an async call gives within ten seconds; a hang fails the test instead of the build.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("took too long")
}
