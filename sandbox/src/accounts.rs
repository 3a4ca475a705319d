//! The accounts a sender can use, as a test or the command line registers them.
//! It exists so that wrong credentials fail here exactly as they would at the provider.
//! It must never print a credential: none of these types has a `Debug`.

use serde::Deserialize;

use crate::channel::Channel;

/// The access token of the LINE account every sandbox starts with.
pub const LINE_TOKEN: &str = "sandbox-line-token";
/// Its channel id.
pub const LINE_CHANNEL_ID: &str = "2000000001";
/// Its channel secret (signs webhooks).
pub const LINE_CHANNEL_SECRET: &str = "5a6d0bd0c0ffee00c0ffee00c0ffee00";
/// Its bot user id, the `destination` of webhooks.
pub const LINE_BOT_USER_ID: &str = "U5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
/// The service account file of the FCM project every sandbox starts with. The key was made for this repository and
/// opens nothing; `token_uri` names the default port (see `Running::fcm_key_json` for other ports).
pub const FCM_DEMO_KEY_JSON: &str = include_str!("../fcm-demo-key.json");
/// The FCM project of that file.
pub const FCM_PROJECT: &str = "carillon-demo";
/// An access token of that project that never expires, for clients that skip OAuth.
pub const FCM_ACCESS_TOKEN: &str = "sandbox-fcm-access-token";
/// The Facebook page every sandbox starts with.
pub const PAGE_ID: &str = "100000000000001";
/// Its access token.
pub const PAGE_TOKEN: &str = "sandbox-page-token";
/// The Meta app that page and number belong to.
pub const META_APP_ID: &str = "300000000000001";
/// Its secret (proves tokens, signs webhooks).
pub const META_APP_SECRET: &str = "sandbox-meta-app-secret";
/// The id of the WhatsApp number every sandbox starts with.
pub const PHONE_NUMBER_ID: &str = "200000000000001";
/// Its access token.
pub const WHATSAPP_TOKEN: &str = "sandbox-whatsapp-token";
/// The template approved for that number, as name and language.
pub const WHATSAPP_TEMPLATE: (&str, &str) = ("shop_news", "zh_TW");
/// The SMTP user every sandbox starts with.
pub const SMTP_USER: &str = "sandbox";
/// Its password.
pub const SMTP_PASSWORD: &str = "sandbox-smtp-password";

/// The Twilio account every sandbox starts with.
pub const TWILIO_SID: &str = "AC0000000000000000000000000000a11c";
/// Its auth token.
pub const TWILIO_AUTH_TOKEN: &str = "sandbox-twilio-token";
/// The number it sends from.
pub const TWILIO_FROM: &str = "+15005550006";
/// The Mitake login every sandbox starts with.
pub const MITAKE_USER: &str = "sandbox";
/// Its password.
pub const MITAKE_PASSWORD: &str = "sandbox-mitake-password";

/// An account on one channel.
#[derive(Clone, Deserialize)]
#[serde(tag = "channel", content = "credentials", rename_all = "snake_case")]
pub enum Account {
    /// A LINE Official Account.
    Line(LineAccount),
    /// An FCM project with a service account.
    #[serde(alias = "app")]
    Fcm(FcmAccount),
    /// A mail submission login. The first one registered makes authentication mandatory.
    #[serde(alias = "email")]
    Smtp(SmtpAccount),
    /// A Facebook page.
    Messenger(PageAccount),
    /// A WhatsApp number.
    Whatsapp(WhatsappAccount),
    /// A Twilio account.
    Twilio(TwilioAccount),
    /// A Mitake login.
    #[serde(alias = "sms")]
    Mitake(MitakeAccount),
}

impl Account {
    /// The account's channel.
    pub fn channel(&self) -> Channel {
        match self {
            Account::Line(_) => Channel::Line,
            Account::Fcm(_) => Channel::Fcm,
            Account::Smtp(_) => Channel::Smtp,
            Account::Messenger(_) => Channel::Messenger,
            Account::Whatsapp(_) => Channel::Whatsapp,
            Account::Twilio(_) => Channel::Twilio,
            Account::Mitake(_) => Channel::Mitake,
        }
    }
}

/// A LINE Official Account. Registering a second token with the same `channel_id` rotates: both work until one is
/// revoked, and they share quota, retry keys and rate.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineAccount {
    /// The channel access token callers send as Bearer.
    pub access_token: String,
    /// Channel id, answered by `/v2/oauth/verify`.
    pub channel_id: String,
    /// Bot user id, answered by `/v2/bot/info`: `U` and 32 hexadecimal digits.
    pub bot_user_id: String,
    /// Name, answered by `/v2/bot/info`.
    #[serde(default)]
    pub display_name: String,
    /// Messages per month; `None` is unlimited.
    #[serde(default)]
    pub monthly_quota: Option<u64>,
    /// Signs the test event; `None` is [`LINE_CHANNEL_SECRET`].
    #[serde(default)]
    pub channel_secret: Option<String>,
}

/// An FCM project with one service account.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FcmAccount {
    /// Project id, part of the send path.
    pub project_id: String,
    /// `iss` of the assertion.
    pub client_email: String,
    /// `kid` of the assertion; `None` accepts any.
    #[serde(default)]
    pub private_key_id: Option<String>,
    /// PEM: an RSA public key (`PUBLIC KEY` or `RSA PUBLIC KEY`), or the service account's own `PRIVATE KEY`.
    pub key_pem: String,
    /// An `aud` to accept beside Google's and this sandbox's own.
    #[serde(default)]
    pub token_uri: Option<String>,
    /// An access token that works at once and never expires.
    #[serde(default)]
    pub access_token: Option<String>,
    /// Seconds an issued access token lives; default 3599.
    #[serde(default = "an_hour")]
    pub token_lifetime_secs: u64,
}

fn an_hour() -> u64 {
    3599
}

/// A mail submission login.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpAccount {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// A Facebook page. Registering another token with the same `page_id` makes another set-up of the same page.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageAccount {
    /// The page access token callers send as Bearer.
    pub access_token: String,
    /// The page's id: digits.
    pub page_id: String,
    /// Its name, answered by `/me`.
    #[serde(default)]
    pub name: String,
    /// The app the token was issued to.
    #[serde(default)]
    pub app_id: Option<String>,
    /// That app's secret: a proof that is given must fit it.
    #[serde(default)]
    pub app_secret: Option<String>,
    /// Whether calls without a proof are refused.
    #[serde(default)]
    pub needs_proof: bool,
    /// What the token may do, answered by `/debug_token`.
    #[serde(default = "page_scopes")]
    pub scopes: Vec<String>,
    /// Whether the app is told of the page's messages.
    #[serde(default)]
    pub subscribed: bool,
    /// Whether the app is the page's primary receiver.
    #[serde(default = "yes")]
    pub is_primary_receiver: bool,
}

/// A WhatsApp number.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhatsappAccount {
    /// The token callers send as Bearer.
    pub access_token: String,
    /// The number's id: digits.
    pub phone_number_id: String,
    /// The number as people dial it.
    #[serde(default)]
    pub display_phone_number: String,
    /// The name customers see.
    #[serde(default)]
    pub verified_name: String,
    /// The app's secret: a proof that is given must fit it.
    #[serde(default)]
    pub app_secret: Option<String>,
    /// Whether calls without a proof are refused.
    #[serde(default)]
    pub needs_proof: bool,
    /// Approved templates, as `name/language`.
    #[serde(default)]
    pub templates: Vec<String>,
}

fn page_scopes() -> Vec<String> {
    [
        "pages_show_list",
        "pages_messaging",
        "pages_manage_metadata",
        "pages_read_engagement",
    ]
    .map(str::to_owned)
    .into()
}

fn yes() -> bool {
    true
}

/// A Twilio account and the one number or messaging service it sends from.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwilioAccount {
    /// `AC` and 32 hexadecimal digits: the user of Basic authentication.
    pub account_sid: String,
    /// Its password.
    pub auth_token: String,
    /// What `From` or `MessagingServiceSid` must be.
    pub from: String,
}

/// A Mitake login.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MitakeAccount {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Points it may spend, one a message.
    pub points: u64,
}

/// Why an account was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAccount {
    /// Not `U` and 32 hexadecimal digits.
    #[error("`bot_user_id` must be U and 32 lowercase hexadecimal digits")]
    BotUserId,
    /// A page's or a number's id that is not digits.
    #[error("an id of Meta's is digits")]
    MetaId,
    /// No usable RSA key in the PEM.
    #[error("`key_pem` holds no RSA key in PEM form")]
    Key,
    /// A token, user or project is empty.
    #[error("a credential is empty")]
    Empty,
}

/// The accounts a sandbox starts with when nothing else is asked for.
pub fn default_accounts() -> Vec<Account> {
    let mut accounts = vec![
        Account::Line(LineAccount {
            access_token: LINE_TOKEN.to_owned(),
            channel_id: LINE_CHANNEL_ID.to_owned(),
            bot_user_id: LINE_BOT_USER_ID.to_owned(),
            display_name: "Sandbox Shop".to_owned(),
            monthly_quota: None,
            channel_secret: None,
        }),
        Account::Smtp(SmtpAccount {
            user: SMTP_USER.to_owned(),
            password: SMTP_PASSWORD.to_owned(),
        }),
        Account::Messenger(PageAccount {
            access_token: PAGE_TOKEN.to_owned(),
            page_id: PAGE_ID.to_owned(),
            name: "Sandbox Shop".to_owned(),
            app_id: Some(META_APP_ID.to_owned()),
            app_secret: Some(META_APP_SECRET.to_owned()),
            needs_proof: true,
            scopes: page_scopes(),
            subscribed: false,
            is_primary_receiver: true,
        }),
        Account::Whatsapp(WhatsappAccount {
            access_token: WHATSAPP_TOKEN.to_owned(),
            phone_number_id: PHONE_NUMBER_ID.to_owned(),
            display_phone_number: "+886 900 000 000".to_owned(),
            verified_name: "Sandbox Shop".to_owned(),
            app_secret: Some(META_APP_SECRET.to_owned()),
            needs_proof: true,
            templates: vec![format!("{}/{}", WHATSAPP_TEMPLATE.0, WHATSAPP_TEMPLATE.1)],
        }),
        Account::Twilio(TwilioAccount {
            account_sid: TWILIO_SID.to_owned(),
            auth_token: TWILIO_AUTH_TOKEN.to_owned(),
            from: TWILIO_FROM.to_owned(),
        }),
        Account::Mitake(MitakeAccount {
            username: MITAKE_USER.to_owned(),
            password: MITAKE_PASSWORD.to_owned(),
            points: 1_000_000_000,
        }),
    ];
    accounts.extend(fcm_account_from_key_json(FCM_DEMO_KEY_JSON).map(|mut account| {
        account.access_token = Some(FCM_ACCESS_TOKEN.to_owned());
        Account::Fcm(account)
    }));
    accounts
}

/// The account of a Google service account file; `None` when the text is none.
pub fn fcm_account_from_key_json(text: &str) -> Option<FcmAccount> {
    #[derive(Deserialize)]
    struct KeyFile {
        project_id: String,
        client_email: String,
        private_key_id: String,
        private_key: String,
        token_uri: String,
    }
    let file: KeyFile = serde_json::from_str(text).ok()?;
    Some(FcmAccount {
        project_id: file.project_id,
        client_email: file.client_email,
        private_key_id: Some(file.private_key_id),
        key_pem: file.private_key,
        token_uri: Some(file.token_uri),
        access_token: None,
        token_lifetime_secs: an_hour(),
    })
}
