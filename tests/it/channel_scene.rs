//! A sandbox, the providers pointed at it, and a message to send.

use carillon::channel::{Channel, ChannelConfig, Channels, Content, Letterhead, Recipient, Rendered, Sender, Template};
use carillon_jobs::{BroadcastId, CustomerId, SenderId, ShopId};
use carillon_sandbox::{LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN, Running, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use uuid::Uuid;

/// Everything a test of one channel needs.
pub(crate) struct Scene {
    pub(crate) sandbox: Running,
    pub(crate) channels: Channels,
    pub(crate) sender: Sender,
}

impl Scene {
    /// A sender of `channel` on a sandbox of its own, with time-outs short enough for tests.
    pub(crate) async fn new(channel: Channel) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let channels = Channels::new(&config(&sandbox)).unwrap();
        let credentials = credentials(channel, &sandbox);
        let sender = Sender::parse(SenderId::new(), channel, &credentials).unwrap();
        Self {
            sandbox,
            channels,
            sender,
        }
    }

    /// The same sandbox seen by a sender with other credentials.
    pub(crate) fn sender(&self, credentials: &Value) -> Sender {
        Sender::parse(SenderId::new(), self.sender.channel(), &credentials.to_string()).unwrap()
    }

    /// `content` for a customer of that first name.
    pub(crate) fn render(&self, content: &Value, first_name: &str, key: Uuid) -> Rendered {
        let content = Content::parse(content).unwrap();
        let letterhead = Letterhead {
            broadcast: BroadcastId(Uuid::from_u128(0xb)),
            shop: ShopId(Uuid::from_u128(0xc)),
            shop_name: "小美的店",
            shop_url: Some("https://shop.example"),
            sms_sender_name: "EasyStore",
            sender: &self.sender,
        };
        Template::compile(&content, &letterhead).render(&Recipient {
            first_name: Some(first_name),
            last_name: None,
            customer: CustomerId(7),
            key,
            unsubscribe_url: "https://carillon.example/u/TOKEN",
        })
    }
}

/// A message with everything a message can have.
pub(crate) fn full() -> Value {
    json!({
        "text": "{first_name} 您好，全館 {{5 折}} {shop_url}",
        "button": {"label": "逛逛", "url": "https://shop.example/sale?a=1&b=%E6%8A%98"},
        "image_url": "https://cdn.example/a.jpg",
        "fallbacks": {"first_name": "朋友", "shop_url": "https://fallback.example"},
    })
}

/// Every combination of parts.
pub(crate) fn all_shapes() -> Vec<Value> {
    let without = |keys: &[&str]| {
        let mut content = full();
        for key in keys {
            content.as_object_mut().unwrap().remove(*key);
        }
        content
    };
    vec![
        full(),
        without(&["button"]),
        without(&["image_url"]),
        without(&["button", "image_url"]),
    ]
}

/// As `config/default.toml` has it.
pub(crate) fn default_config() -> ChannelConfig {
    #[derive(serde::Deserialize)]
    struct File {
        channel: ChannelConfig,
    }
    let file: File = toml::from_str(include_str!("../../config/default.toml")).unwrap();
    file.channel
}

fn config(sandbox: &Running) -> ChannelConfig {
    let mut config = default_config();
    config.http.connect_timeout_secs = 1;
    config.line.base_url = sandbox.http_url();
    config.line.timeout_secs = 2;
    config.app.base_url = sandbox.http_url();
    config.app.timeout_secs = 2;
    config.messenger.base_url = sandbox.http_url();
    config.messenger.timeout_secs = 2;
    config.whatsapp.base_url = sandbox.http_url();
    config.whatsapp.timeout_secs = 2;
    config.email.command_timeout_secs = 2;
    config.email.body_timeout_secs = 2;
    config
}

fn credentials(channel: Channel, sandbox: &Running) -> String {
    match channel {
        Channel::Line => line_credentials(LINE_TOKEN).to_string(),
        Channel::App => sandbox.fcm_key_json(),
        Channel::Email => email_credentials(sandbox, carillon_sandbox::SMTP_PASSWORD).to_string(),
        Channel::Messenger => crate::meta_scene::page().to_string(),
        Channel::Whatsapp => crate::meta_scene::number().to_string(),
        Channel::Sms => panic!("not connected"),
    }
}

pub(crate) fn line_credentials(token: &str) -> Value {
    json!({"channel_id": LINE_CHANNEL_ID, "channel_secret": LINE_CHANNEL_SECRET, "access_token": token})
}

pub(crate) fn email_credentials(sandbox: &Running, password: &str) -> Value {
    json!({
        "host": "127.0.0.1", "port": sandbox.smtp_addr.port(), "tls": "none",
        "username": carillon_sandbox::SMTP_USER, "password": password,
        "from": "news@shop.example", "from_name": "小美的店",
    })
}
