//! A small provider of our own that misbehaves in ways no sandbox would, over HTTP and SMTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What a bad provider does once it has the whole message.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    /// Writes these bytes and closes.
    Says(Vec<u8>),
    /// Writes these bytes and resets the connection.
    SaysAndResets(Vec<u8>),
    /// Resets before it has read anything.
    ResetsAtOnce,
    /// Writes the first bytes, then the second again and again until nobody takes them.
    Endless(Vec<u8>, Vec<u8>),
    /// Says nothing and keeps the connection.
    Never,
}

/// A provider of our own.
pub(crate) struct BadProvider {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for BadProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BadProvider {
    /// Speaks SMTP, or HTTP, and answers a message by `play` of what it was told.
    pub(crate) async fn start(smtp: bool, play: impl Fn(&str) -> Play + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let cut = Arc::new(AtomicBool::new(false));
        let (log, seen_cut) = (Arc::clone(&requests), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if matches!(play(""), Play::ResetsAtOnce) {
                    reset(&stream);
                    continue;
                }
                let mut stream = BufReader::new(stream);
                let heard = if smtp {
                    mail(&mut stream).await
                } else {
                    request(&mut stream).await
                };
                let Some(heard) = heard else { continue };
                log.lock().unwrap().push(heard.clone());
                tokio::spawn(perform(stream.into_inner(), play(&heard), Arc::clone(&seen_cut)));
            }
        });
        Self {
            address,
            requests,
            cut,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every message it was told, as it was written.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Whether somebody hung up on an endless answer.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

async fn perform(mut stream: TcpStream, play: Play, cut: Arc<AtomicBool>) {
    match play {
        Play::Says(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Until the other side hangs up: closing on unread bytes would be a reset.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        Play::SaysAndResets(bytes) => {
            let _ = stream.write_all(&bytes).await;
            reset(&stream);
        }
        Play::ResetsAtOnce => {}
        Play::Endless(first, again) => {
            let mut written = stream.write_all(&first).await;
            while written.is_ok() {
                written = stream.write_all(&again).await;
            }
            cut.store(true, Ordering::SeqCst);
        }
        Play::Never => std::future::pending().await,
    }
}

/// Makes closing it a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    let mut length = 0;
    loop {
        let start = head.len();
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        let line = head[start..].trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

/// An SMTP session up to the final dot.
async fn mail(stream: &mut BufReader<TcpStream>) -> Option<String> {
    stream.write_all(b"220 mail.example ESMTP\r\n").await.ok()?;
    let mut said = String::new();
    loop {
        let start = said.len();
        if stream.read_line(&mut said).await.ok()? == 0 {
            return None;
        }
        let command = said[start..].get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match command.as_str() {
            "EHLO" => b"250-mail.example\r\n250 AUTH PLAIN LOGIN\r\n",
            "AUTH" => b"235 2.7.0 welcome\r\n",
            "DATA" => b"354 go on\r\n",
            _ => b"250 2.0.0 ok\r\n",
        };
        stream.write_all(reply).await.ok()?;
        if command == "DATA" {
            break;
        }
    }
    while !said.ends_with("\r\n.\r\n") {
        if stream.read_line(&mut said).await.ok()? == 0 {
            return None;
        }
    }
    Some(said)
}
