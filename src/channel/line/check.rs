//! Whether a LINE account is set up as it must be: token, channel id, webhook, secret, chat mode.
//!
//! Why it exists: a merchant copies three texts from two of LINE's consoles, and each can be another account's. LINE knows which
//! is which, so it is asked when they are saved, in the order in which they are set up: what follows from a wrong token is not
//! listed as five faults. The secret can only be shown by an event that LINE signs: LINE sends a test event to our own
//! webhook, which answers 401 to a signature that does not fit.
//!
//! It must never send a message, change a setting of LINE's, or show a secret or a token.

use ::http::{HeaderValue, Method, header};
use reqwest::{Body, Request};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{JSON, Line, quota::promised};
use crate::channel::{
    check::{Checked, Expected, Finding},
    http::{Answer, exchange},
    outcome::{ErrorClass, Refusal},
    sender::LineAccount,
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
/// A token that runs out within so many seconds is worth a word: ten days.
const SOON_SECS: u64 = 10 * 86_400;

/// Where LINE is asked about an account.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) verify: Url,
    pub(super) info: Url,
    pub(super) webhook: Url,
    pub(super) test: Url,
}

#[derive(Deserialize)]
struct Token {
    client_id: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    display_name: String,
    basic_id: String,
    chat_mode: String,
}

#[derive(Deserialize)]
struct Webhook {
    endpoint: String,
    active: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tested {
    success: bool,
    #[serde(default)]
    status_code: u16,
    #[serde(default)]
    reason: String,
}

impl Line {
    /// One finding a question.
    pub(in crate::channel) async fn check(&self, account: &LineAccount, expected: Expected<'_>) -> Checked {
        let mut findings = Vec::new();
        if !self.check_token(account, &mut findings).await {
            return Checked { findings };
        }
        self.check_account(account, &mut findings).await;
        if let Some(ours) = expected.webhook_url {
            let set = self.check_webhook(account, ours, &mut findings).await;
            findings.push(if set {
                self.check_secret(account, ours).await
            } else {
                Finding::unknown(
                    "channel_secret",
                    "要等 Webhook 網址設定好，LINE 才能送出測試事件來確認 Channel secret。",
                    "the channel secret can be checked once the webhook is set: LINE signs a test event with it.",
                )
            });
        }
        Checked { findings }
    }

    /// The token is valid, and is this channel's; false when nothing more can be asked with it.
    async fn check_token(&self, account: &LineAccount, findings: &mut Vec<Finding>) -> bool {
        let bearer = account.authorization.to_str().unwrap_or_default();
        let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("access_token", token)
            .finish();
        let mut request = Request::new(Method::POST, self.setup.verify.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, FORM);
        *request.body_mut() = Some(Body::from(form));
        *request.timeout_mut() = Some(self.timeout);
        let Ok(answer) = exchange(&self.client, request).await else {
            return no_answer("access_token", findings);
        };
        if answer.status == 400 {
            findings.push(Finding::bad(
                "access_token",
                "Channel access token 無效或已過期。請到 LINE Developers 的 Messaging API 分頁重新發行長期 token，再貼上一次。",
                "the channel access token is invalid or has expired: issue a long-lived one in the Messaging API tab of LINE \
                 Developers and paste it again.",
            ));
            return false;
        }
        let Ok(known) = promised::<Token>(&answer) else {
            return no_answer("access_token", findings);
        };
        findings.push(match known.expires_in {
            Some(secs) if secs < SOON_SECS => Finding::warning(
                "access_token",
                format!(
                    "Channel access token 有效，但 {} 天內會過期；建議改用長期 token。",
                    secs.div_ceil(86_400)
                ),
                format!(
                    "the channel access token is valid and expires within {} days; a long-lived one is better.",
                    secs.div_ceil(86_400)
                ),
            ),
            Some(_) | None => Finding::good(
                "access_token",
                "Channel access token 有效。",
                "the channel access token is valid.",
            ),
        });
        let same = known.client_id == account.channel_id.trim();
        findings.push(if same {
            Finding::good(
                "channel_id",
                "Channel ID 與 token 屬於同一個頻道。",
                "the channel id and the token belong to the same channel.",
            )
        } else {
            Finding::bad(
                "channel_id",
                format!(
                    "這個 token 屬於頻道 {}，不是填寫的 {}。請確認 LINE Developers「Basic settings」與 LINE 官方帳號後台的 Channel ID 一致。",
                    plain(&known.client_id),
                    plain(&account.channel_id)
                ),
                format!(
                    "the token belongs to channel {}, not to {} as entered: compare \"Basic settings\" in LINE Developers with \
                     the Official Account Manager.",
                    plain(&known.client_id),
                    plain(&account.channel_id)
                ),
            )
        });
        true
    }

    /// Which account it is, and whether people answer in LINE's own chat.
    async fn check_account(&self, account: &LineAccount, findings: &mut Vec<Finding>) {
        let info = match self.ask(account, &self.setup.info).await {
            Ok(answer) => promised::<Info>(&answer),
            Err(refusal) => Err(refusal),
        };
        let info = match info {
            Ok(info) => info,
            Err(refusal) => {
                findings.push(refused(
                    "account",
                    &refusal,
                    "LINE 不允許這個 token 讀取帳號資料；請確認官方帳號已啟用 Messaging API。",
                    "LINE does not let this token read the account: is the Messaging API enabled for it?",
                ));
                return;
            }
        };
        let (name, id) = (plain(&info.display_name), plain(&info.basic_id));
        findings.push(Finding::good(
            "account",
            format!("已連接官方帳號「{name}」（{id}）。"),
            format!("connected to the official account \"{name}\" ({id})."),
        ));
        findings.push(if info.chat_mode == "bot" {
            Finding::good(
                "chat_mode",
                "回應模式為聊天機器人，訊息都會進到這裡。",
                "the account is in bot mode: every message comes here.",
            )
        } else {
            Finding::warning(
                "chat_mode",
                "帳號開啟了 LINE 的「聊天」：在 LINE 官方帳號後台或 App 的回覆不會同步到這裡。",
                "LINE's own chat is on: what staff answer in LINE's manager or app does not come here.",
            )
        });
    }

    /// The account's webhook is ours, and on; true when a test event would come here.
    async fn check_webhook(&self, account: &LineAccount, ours: &str, findings: &mut Vec<Finding>) -> bool {
        let Ok(answer) = self.ask(account, &self.setup.webhook).await else {
            return no_answer("webhook", findings);
        };
        let set = match (answer.status, promised::<Webhook>(&answer)) {
            (404, _) => None,
            (_, Ok(set)) => Some(set),
            (_, Err(_)) => return no_answer("webhook", findings),
        };
        let (finding, is_ours) = match set {
            Some(set) if set.endpoint.trim_end_matches('/') == ours && set.active => (
                Finding::good(
                    "webhook",
                    "Webhook 網址正確且已啟用。",
                    "the webhook is set to this address and on.",
                ),
                true,
            ),
            Some(set) if set.endpoint.trim_end_matches('/') == ours => (
                Finding::bad(
                    "webhook",
                    "Webhook 網址正確，但尚未啟用。請在 LINE Developers 的 Messaging API 分頁開啟「Use webhook」。",
                    "the webhook is set to this address and off: turn on \"Use webhook\" in the Messaging API tab.",
                ),
                true,
            ),
            Some(_) | None => (
                Finding::bad(
                    "webhook",
                    format!("LINE 沒有把訊息送到這裡。請把 Webhook 網址設為 {ours} 並開啟「Use webhook」。"),
                    format!(
                        "LINE does not send messages here: set the webhook URL to {ours} and turn on \"Use webhook\"."
                    ),
                ),
                false,
            ),
        };
        findings.push(finding);
        is_ours
    }

    /// LINE signs a test event with the account's secret and sends it here: what we answered tells whether ours is the same.
    async fn check_secret(&self, account: &LineAccount, ours: &str) -> Finding {
        let mut request = Request::new(Method::POST, self.setup.test.clone());
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, account.authorization.clone());
        headers.insert(header::CONTENT_TYPE, JSON);
        *request.body_mut() = Some(Body::from(serde_json::json!({ "endpoint": ours }).to_string()));
        *request.timeout_mut() = Some(self.timeout);
        let tested = exchange(&self.client, request).await;
        let tested = tested.and_then(|answer: Answer| promised::<Tested>(&answer));
        match tested {
            Ok(tested) if tested.success => Finding::good(
                "channel_secret",
                "LINE 簽章的測試事件已收到，Channel secret 正確。",
                "a test event signed by LINE arrived here: the channel secret is right.",
            ),
            Ok(Tested { status_code: 401, .. }) => Finding::bad(
                "channel_secret",
                "LINE 的測試事件簽章不符：Channel secret 不正確。請從 LINE Developers「Basic settings」重新複製。",
                "the signature of LINE's test event does not fit: the channel secret is wrong. Copy it again from \"Basic settings\".",
            ),
            Ok(tested) => Finding::bad(
                "channel_secret",
                format!(
                    "LINE 的測試事件沒有送達這裡（{} {}），因此無法確認 Channel secret。請確認網址可從外部以 https 連線。",
                    plain(&tested.reason),
                    tested.status_code
                ),
                format!(
                    "LINE's test event did not get here ({} {}), so the secret is not known to be right: the address must be \
                     reachable from outside by https.",
                    plain(&tested.reason),
                    tested.status_code
                ),
            ),
            Err(_) => Finding::no_answer("channel_secret", "LINE"),
        }
    }
}

/// Nothing is known, and nothing that hangs on it is asked.
fn no_answer(what: &'static str, findings: &mut Vec<Finding>) -> bool {
    findings.push(Finding::no_answer(what, "LINE"));
    false
}

/// LINE says no, or nothing.
fn refused(what: &'static str, refusal: &Refusal, zh: &str, en: &str) -> Finding {
    if refusal.class == ErrorClass::Credentials {
        Finding::bad(what, zh, en)
    } else {
        Finding::no_answer(what, "LINE")
    }
}

/// A provider's text in a sentence: one line, not endless.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}
