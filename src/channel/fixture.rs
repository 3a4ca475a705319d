//! Senders, a message and settings for the tests of this folder, and a scripted HTTP server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use carillon_jobs::SenderId;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Channel, ChannelConfig, Sender};

/// The settings as shipped.
pub(super) fn config() -> ChannelConfig {
    #[derive(serde::Deserialize)]
    struct File {
        channel: ChannelConfig,
    }
    let file: File = toml::from_str(include_str!("../../config/default.toml")).unwrap();
    file.channel
}

pub(super) fn line_sender() -> Sender {
    let json = json!({"channel_id": "1", "channel_secret": "s3cret", "access_token": "t0ken"});
    Sender::parse(SenderId::new(), Channel::Line, &json.to_string()).unwrap()
}

pub(super) fn app_sender(token_uri: &str) -> Sender {
    let mut json: serde_json::Value = serde_json::from_str(carillon_sandbox::FCM_DEMO_KEY_JSON).unwrap();
    json["token_uri"] = token_uri.into();
    Sender::parse(SenderId::new(), Channel::App, &json.to_string()).unwrap()
}

pub(super) fn email_sender(port: u16) -> Sender {
    let json = json!({
        "host": "127.0.0.1", "port": port, "tls": "none", "from": "news@shop.example", "from_name": "小店",
        "reply_to": "help@shop.example",
    });
    Sender::parse(SenderId::new(), Channel::Email, &json.to_string()).unwrap()
}

pub(super) fn messenger_sender() -> Sender {
    let json = json!({"page_id": "1001", "access_token": "t0ken", "app_id": "3003", "app_secret": "s3cret"});
    Sender::parse(SenderId::new(), Channel::Messenger, &json.to_string()).unwrap()
}

pub(super) fn whatsapp_sender() -> Sender {
    let json = json!({"phone_number_id": "2002", "access_token": "t0ken"});
    Sender::parse(SenderId::new(), Channel::Whatsapp, &json.to_string()).unwrap()
}

/// What a scripted server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Sends these bytes and closes.
    Raw(Vec<u8>),
    /// Reads the request and closes.
    Reset,
    /// Reads the request and says nothing.
    Hang,
}

impl Reply {
    pub(super) fn json(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
        Self::Raw(format!("{head}{headers}Connection: close\r\n\r\n{body}").into_bytes())
    }
}

/// An HTTP server that answers with what `script` says about the nth request and its text.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) url: String,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
        let server = Self {
            url,
            requests: Arc::clone(&requests),
        };
        let count = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (requests, count, script) = (requests.clone(), count.clone(), script.clone());
                tokio::spawn(async move {
                    let Some(request) = read_request(&mut stream).await else {
                        return;
                    };
                    requests.lock().unwrap().push(request.clone());
                    match script(count.fetch_add(1, Ordering::SeqCst), &request) {
                        Reply::Raw(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.shutdown().await;
                        }
                        Reply::Reset => {}
                        Reply::Hang => std::future::pending().await,
                    }
                });
            }
        });
        server
    }

    /// Every request so far, head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or_default() {
            return Some(text.into_owned());
        }
    }
}
