//! Every adapter behind one face.
//!
//! Why it exists: what has to hold of one adapter has to hold of all, so a new one is a row here and no test of its own.

use std::net::SocketAddr;

use carillon::channel::{Channel, Channels, Content, Letterhead, Recipient, Rendered, SendOutcome, Sender, Template};
use carillon_jobs::{BroadcastId, CustomerId, SenderId, ShopId};
use carillon_sandbox::{Channel as Provider, ReceivedMessage, Running};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::channel_scene::default_config;

/// The idempotency key of every message here.
pub(crate) const KEY: Uuid = Uuid::from_u128(0xfeed_0000_0000_4000_8000_0000_0000_beef);
/// A name that stands nowhere else.
pub(crate) const NAME: &str = "Xuliqmei";
/// A word of the body that stands nowhere else.
pub(crate) const BODY_WORD: &str = "Brillig";
const ME: u128 = 0xb;

/// One adapter.
#[derive(Clone, Copy)]
pub(crate) struct Adapter {
    pub(crate) name: &'static str,
    pub(crate) channel: Channel,
    pub(crate) provider: Provider,
    /// Whom we send to.
    pub(crate) to: &'static str,
    /// The same address as the provider writes it.
    pub(crate) known_as: &'static str,
    /// Whether a repeat with the same key is one message.
    pub(crate) keyed: bool,
    /// Credentials for the provider at (HTTP address, SMTP port).
    pub(crate) credentials: fn(&str, u16) -> Value,
    /// Status, content type and body of a good answer.
    pub(crate) good: fn() -> (&'static str, &'static str, String),
}

const PHONE: &str = "+886931314159";

/// All seven.
pub(crate) const ADAPTERS: [Adapter; 7] = [
    Adapter {
        name: "app",
        channel: Channel::App,
        provider: Provider::Fcm,
        to: "token-c0ffeec0ffee0123456789abcdef:APA91bc0ffeec0ffee0123456789abcdef",
        known_as: "token-c0ffeec0ffee0123456789abcdef:APA91bc0ffeec0ffee0123456789abcdef",
        keyed: false,
        credentials: |_, _| serde_json::from_str(carillon_sandbox::FCM_DEMO_KEY_JSON).unwrap(),
        good: || json("200 OK", &json!({"name": "projects/carillon-demo/messages/0:1500"})),
    },
    Adapter {
        name: "line",
        channel: Channel::Line,
        provider: Provider::Line,
        to: "Uc0ffeec0ffee0123456789abcdef0123",
        known_as: "Uc0ffeec0ffee0123456789abcdef0123",
        keyed: true,
        credentials: |_, _| crate::channel_scene::line_credentials(carillon_sandbox::LINE_TOKEN),
        good: || {
            json(
                "200 OK",
                &json!({"sentMessages": [{"id": "461230966842064897", "quoteToken": "q"}]}),
            )
        },
    },
    Adapter {
        name: "messenger",
        channel: Channel::Messenger,
        provider: Provider::Messenger,
        to: "7314159265000001",
        known_as: "7314159265000001",
        keyed: false,
        credentials: |_, _| crate::meta_scene::page(),
        good: || {
            json(
                "200 OK",
                &json!({"recipient_id": "7314159265000001", "message_id": "m_abc"}),
            )
        },
    },
    Adapter {
        name: "whatsapp",
        channel: Channel::Whatsapp,
        provider: Provider::Whatsapp,
        to: PHONE,
        known_as: PHONE,
        keyed: false,
        credentials: |_, _| crate::meta_scene::number(),
        good: || {
            json(
                "200 OK",
                &json!({"messaging_product": "whatsapp", "messages": [{"id": "wamid.abc"}]}),
            )
        },
    },
    Adapter {
        name: "twilio",
        channel: Channel::Sms,
        provider: Provider::Twilio,
        to: PHONE,
        known_as: PHONE,
        keyed: false,
        credentials: |_, _| crate::sms_scene::twilio(),
        good: || {
            let sid = "SM0123456789abcdef0123456789abcdef";
            json(
                "201 Created",
                &json!({"sid": sid, "status": "queued", "error_code": null}),
            )
        },
    },
    Adapter {
        name: "mitake",
        channel: Channel::Sms,
        provider: Provider::Mitake,
        to: PHONE,
        known_as: "0931314159",
        keyed: true,
        credentials: |http, _| {
            json!({
                "provider": "mitake", "username": carillon_sandbox::MITAKE_USER,
                "password": carillon_sandbox::MITAKE_PASSWORD, "callback_token": crate::sms_scene::CALLBACK_TOKEN,
                "base_url": format!("{http}/b2c/mtk"),
            })
        },
        good: || {
            let text = format!("[{KEY}]\r\nmsgid=0000000013\r\nstatuscode=1\r\nAccountPoint=100\r\n");
            ("200 OK", "text/plain", text)
        },
    },
    Adapter {
        name: "email",
        channel: Channel::Email,
        provider: Provider::Smtp,
        to: "xuliq.amy@customer.example",
        known_as: "xuliq.amy@customer.example",
        keyed: false,
        credentials: |_, port| {
            json!({
                "host": "127.0.0.1", "port": port, "tls": "none", "username": carillon_sandbox::SMTP_USER,
                "password": carillon_sandbox::SMTP_PASSWORD, "from": "news@shop.example", "from_name": "小美的店",
            })
        },
        good: || ("250", "", "250 2.0.0 Ok: queued as 4F2A1\r\n".to_owned()),
    },
];

fn json(status: &'static str, body: &Value) -> (&'static str, &'static str, String) {
    (status, "application/json", body.to_string())
}

/// A sender on an adapter whose provider is somewhere, with its message.
pub(crate) struct Station {
    pub(crate) adapter: Adapter,
    pub(crate) channels: Channels,
    pub(crate) sender: Sender,
    pub(crate) message: Rendered,
    credentials: Value,
}

impl Station {
    /// Points `adapter` at a provider; app tokens are always issued by `sandbox`.
    pub(crate) fn at(adapter: Adapter, sandbox: &Running, http: &str, smtp: SocketAddr) -> Self {
        let mut config = default_config();
        config.http.connect_timeout_secs = 1;
        for (base_url, timeout_secs) in [
            (&mut config.line.base_url, &mut config.line.timeout_secs),
            (&mut config.app.base_url, &mut config.app.timeout_secs),
            (&mut config.messenger.base_url, &mut config.messenger.timeout_secs),
            (&mut config.whatsapp.base_url, &mut config.whatsapp.timeout_secs),
            (&mut config.sms.twilio_base_url, &mut config.sms.timeout_secs),
        ] {
            http.clone_into(base_url);
            *timeout_secs = 2;
        }
        config.app.token_url = format!("{}/token", sandbox.http_url());
        config.email.command_timeout_secs = 2;
        config.email.body_timeout_secs = 2;
        let credentials = (adapter.credentials)(http, smtp.port());
        let sender = Sender::parse(SenderId::new(), adapter.channel, &credentials.to_string()).unwrap();
        Self {
            adapter,
            channels: Channels::new(&config).unwrap().reached_at("https://carillon.example"),
            message: message(&sender),
            sender,
            credentials,
        }
    }

    /// Points `adapter` at the sandbox.
    pub(crate) fn in_sandbox(adapter: Adapter, sandbox: &Running) -> Self {
        Self::at(adapter, sandbox, &sandbox.http_url(), sandbox.smtp_addr)
    }

    pub(crate) async fn send(&self) -> SendOutcome {
        let outcome = self
            .channels
            .send(&self.sender, self.adapter.to, &self.message, KEY)
            .await;
        self.tells_nothing(&outcome, &[]);
        outcome
    }

    /// Whatever can be printed of a send holds nothing that must not be printed; `more`: what only the provider saw.
    pub(crate) fn tells_nothing(&self, outcome: &SendOutcome, more: &[String]) {
        let mut printed = format!("{:?} {:?} {:?}", self.sender, self.message, self.channels);
        if let SendOutcome::Refused(refusal) = outcome {
            printed = format!("{printed} {refusal:?} {} {}", refusal.code, refusal.class);
        }
        for secret in self.secrets().iter().chain(more) {
            let name = self.adapter.name;
            assert!(!printed.contains(secret), "{name}: {secret} in {printed}");
        }
    }

    /// What must never be printed.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> = [NAME, BODY_WORD, self.adapter.to, self.adapter.known_as]
            .map(str::to_owned)
            .into();
        let named = [
            "access_token",
            "channel_secret",
            "app_secret",
            "auth_token",
            "password",
            "callback_token",
            "verify_token",
        ];
        secrets.extend(
            named
                .iter()
                .filter_map(|name| self.credentials[*name].as_str())
                .map(str::to_owned),
        );
        if let Some(key) = self.credentials["private_key"].as_str() {
            secrets.extend(key.lines().skip(1).take(1).map(str::to_owned));
        }
        secrets
    }
}

fn message(sender: &Sender) -> Rendered {
    let content = Content::parse(&json!({
        "text": format!("{{first_name}} hello, {BODY_WORD} {{shop_url}}"), "subject": "Sale", "title": "Sale",
        "fallbacks": {"first_name": "you", "shop_url": "https://shop.example"},
    }))
    .unwrap();
    let letterhead = Letterhead {
        broadcast: BroadcastId(Uuid::from_u128(ME)),
        shop: ShopId(Uuid::from_u128(0xc)),
        shop_name: "小美的店",
        shop_url: Some("https://shop.example"),
        sms_sender_name: "EasyStore",
        sender,
    };
    Template::compile(&content, &letterhead).render(&Recipient {
        first_name: Some(NAME),
        last_name: None,
        customer: CustomerId(7),
        key: KEY,
        unsubscribe_url: "https://carillon.example/u/TOKEN",
    })
}

/// Whether what arrived says which broadcast and, but for LINE and mail's marker, which delivery it is.
pub(crate) fn is_marked(provider: Provider, got: &ReceivedMessage) -> bool {
    let broadcast = Uuid::from_u128(ME);
    match provider {
        Provider::Line => got.marker == "bc_b",
        Provider::Fcm => got.marker == broadcast.to_string() && got.body.contains(&KEY.to_string()),
        // A text message's mark is in the address that Twilio is to tell.
        Provider::Messenger | Provider::Whatsapp | Provider::Twilio => {
            got.body.contains(&format!("carillon.{}.7", broadcast.simple()))
        }
        // Mitake calls back only at standard ports, which this address has.
        Provider::Mitake => got.marker == broadcast.simple().to_string() && got.body.contains(&KEY.to_string()),
        Provider::Smtp => got.marker.contains(&broadcast.simple().to_string()) && got.body.contains(&KEY.to_string()),
    }
}
