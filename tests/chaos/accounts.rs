//! The town's accounts at the providers: credentials as they are stored, and how fast each may send.
//! It must never hold a secret of anybody's: all of them open the sandbox and nothing else.

use carillon_sandbox::{
    LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN, META_APP_SECRET, MITAKE_PASSWORD, MITAKE_USER, PAGE_ID,
    PAGE_TOKEN, PHONE_NUMBER_ID, Running, SMTP_PASSWORD, SMTP_USER, TWILIO_AUTH_TOKEN, TWILIO_FROM, TWILIO_SID,
    WHATSAPP_TOKEN,
};
use serde_json::{Value, json};

use super::provider::Provider;

/// What shop fronts sign with.
pub const STORE_SECRET: &str = "store-secret-of-the-chaos";
/// What return paths are made with, and what the mail server that takes them signs with.
pub const BOUNCE_SECRET: &str = "bounce-secret-of-the-chaos";
/// What Mitake's callbacks carry.
pub const CALLBACK_TOKEN: &str = "callback-token-of-the-chaos";
/// What Meta asks for once, when it is pointed at us; without it nothing that it tells is believed.
const VERIFY_TOKEN: &str = "verify-token-of-the-chaos";
/// Where providers are told that they reach us; what comes to the web processes has to say so.
pub const PUBLIC_URL: &str = "https://carillon.example";

/// The senders of a shop: each channel's, text messages by Mitake or Twilio in turn. The shops of `relay` have a mail relay of their
/// own.
pub fn of_shop(number: usize, relay: bool) -> Vec<Provider> {
    let of_texts = if number.is_multiple_of(2) {
        Provider::Mitake
    } else {
        Provider::Twilio
    };
    let mut all = vec![
        Provider::Line,
        Provider::App,
        Provider::Messenger,
        Provider::Whatsapp,
        of_texts,
    ];
    all.extend(relay.then_some(Provider::Email));
    all
}

/// How many messages a second a sender of a shop may send: slow on purpose.
pub const fn rate(provider: Provider) -> f64 {
    match provider {
        Provider::Line | Provider::App | Provider::Messenger | Provider::Whatsapp => 80.0,
        Provider::Email | Provider::Mitake | Provider::Twilio => 40.0,
    }
}

/// What the sandbox knows a sender by.
pub fn credentials(provider: Provider, sandbox: &Running) -> Value {
    let smtp = sandbox.smtp_addr;
    match provider {
        Provider::Line => {
            json!({"channel_id": LINE_CHANNEL_ID, "channel_secret": LINE_CHANNEL_SECRET, "access_token": LINE_TOKEN})
        }
        // A shop front's own messages come to it, too.
        Provider::App => {
            let mut key: Value = serde_json::from_str(&sandbox.fcm_key_json()).unwrap();
            key["secret"] = STORE_SECRET.into();
            key
        }
        Provider::Email => {
            json!({"host": smtp.ip().to_string(), "port": smtp.port(), "tls": "none", "username": SMTP_USER,
            "password": SMTP_PASSWORD, "return_path": "bounce@shop.example", "bounce_secret": BOUNCE_SECRET,
            "from": "news@shop.example", "from_name": "好日子選物"})
        }
        Provider::Messenger => {
            json!({"page_id": PAGE_ID, "access_token": PAGE_TOKEN, "app_secret": META_APP_SECRET,
            "verify_token": VERIFY_TOKEN})
        }
        Provider::Whatsapp => {
            json!({"phone_number_id": PHONE_NUMBER_ID, "access_token": WHATSAPP_TOKEN, "app_secret": META_APP_SECRET,
            "verify_token": VERIFY_TOKEN})
        }
        Provider::Mitake => {
            json!({"provider": "mitake", "username": MITAKE_USER, "password": MITAKE_PASSWORD,
            "callback_token": CALLBACK_TOKEN, "base_url": format!("{}/b2c/mtk", sandbox.http_url())})
        }
        Provider::Twilio => {
            json!({"provider": "twilio", "account_sid": TWILIO_SID, "auth_token": TWILIO_AUTH_TOKEN, "from": TWILIO_FROM})
        }
    }
}
