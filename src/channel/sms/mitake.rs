//! Mitake: one form per message, and what its answers mean.
//!
//! Why a `clientid` on every message: Mitake sends nothing twice under one `clientid` for 12 hours and says `Duplicate=Y` instead, so an
//! interrupted send is repeated instead of being guessed about. HTTP is 200 whatever happened, so all depends on the text.
//!
//! It must never take an answer about another message, or one with anything in it that is not Mitake's form, for acceptance.

use std::{borrow::Cow, fmt::Write as _, str, time::Duration};

use ::http::{HeaderValue, Method, header};
use reqwest::{Body, Client, Request};
use url::{Url, form_urlencoded};
use uuid::Uuid;

use super::{Letter, account::MitakeAccount, codes};
use crate::{
    channel::{
        check::Finding,
        config::{ChannelsError, SmsConfig, base_url, secs},
        http::{Answer, exchange},
        outcome::{ErrorClass, Refusal, SendOutcome},
        phone,
    },
    secret::Hidden,
};

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
/// How long Mitake rests when it says that its service is down.
const DOWN_WAIT: Duration = Duration::from_secs(30);
/// What stands for a line break in a text.
const LINE_BREAK: &str = "\u{6}";

#[derive(Debug)]
pub(super) struct Mitake {
    client: Client,
    base_url: Url,
    timeout: Duration,
}

impl Mitake {
    pub(super) fn new(client: Client, config: &SmsConfig) -> Result<Self, ChannelsError> {
        let wrong = || ChannelsError::Settings(vec!["channel.sms.mitake_base_url is not a URL".into()]);
        Ok(Self {
            client,
            base_url: base_url(&config.mitake_base_url).ok_or_else(wrong)?,
            timeout: secs(config.timeout_secs),
        })
    }

    pub(super) async fn send(&self, account: &MitakeAccount, letter: &Letter<'_>, key: Uuid) -> SendOutcome {
        // Nearly all are stored in that form.
        let to = phone::taiwan_mobile(letter.to);
        let Some(to) = to.or_else(|| phone::e164(letter.to).as_deref().and_then(phone::taiwan_mobile)) else {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        };
        let mut buffer = Uuid::encode_buffer();
        let key: &str = key.hyphenated().encode_lower(&mut buffer);
        let frame = account.frame.get_or_init(|| Frame {
            url: self.url(account, "SmSend", "CharsetURL=UTF-8"),
            fields: Hidden::new(constant_fields(account, letter)),
            marked: letter.told_below.is_some(),
        });
        let mut request = Request::new(Method::POST, frame.url.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, FORM);
        *request.body_mut() = Some(Body::from(form(frame, &to, letter, key)));
        *request.timeout_mut() = Some(self.timeout);
        match exchange(&self.client, request).await {
            Ok(answer) => judge(&answer, key),
            Err(refusal) => refusal.into(),
        }
    }

    /// How many points the account has left.
    pub(super) async fn check(&self, account: &MitakeAccount) -> Result<Finding, Refusal> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("username", &account.username)
            .append_pair("password", account.password.expose())
            .finish();
        let mut request = Request::new(Method::GET, self.url(account, "SmQuery", &query));
        *request.timeout_mut() = Some(self.timeout);
        let answer = exchange(&self.client, request).await?;
        let reply = (answer.status == 200).then(|| reply(&answer)).flatten();
        match reply {
            Some(Reply {
                points: Some(points),
                code: None,
                ..
            }) => Ok(points_left(points)),
            Some(Reply { code: Some(code), .. }) => Err(of_code(code)),
            _ => Err(not_mitake(&answer)),
        }
    }

    fn url(&self, account: &MitakeAccount, call: &str, query: &str) -> Url {
        let mut url = account.base_url.as_ref().unwrap_or(&self.base_url).clone();
        let path = format!("{}/{call}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.set_query(Some(query));
        url
    }
}

fn points_left(points: &str) -> Finding {
    let zh = format!("三竹帳號可以使用，剩餘 {points} 點。");
    let en = format!("The Mitake account works and has {points} points left.");
    if points.trim() == "0" {
        return Finding::bad(
            "account",
            "三竹帳號沒有點數，請先儲值。",
            "The Mitake account has no points left: buy some.",
        );
    }
    Finding::good("account", zh, en)
}

/// What the requests of one account have in common.
pub(super) struct Frame {
    url: Url,
    /// The password is among them.
    fields: Hidden,
    /// Whether they end with a callback's address, which each delivery's mark completes.
    marked: bool,
}

/// The fields that are the same in every message; the last is the callback's address up to the delivery's mark.
fn constant_fields(account: &MitakeAccount, letter: &Letter<'_>) -> String {
    let mut fields = form_urlencoded::Serializer::new(String::new());
    fields
        .append_pair("username", &account.username)
        .append_pair("password", account.password.expose())
        .append_pair("smsPointFlag", "1");
    if let Some(below) = letter.told_below {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", account.callback_token.expose())
            .append_pair("mark", "")
            .finish();
        fields.append_pair("response", &format!("{below}/{}?{query}", letter.sender));
    }
    fields.finish()
}

fn form(frame: &Frame, to: &str, letter: &Letter<'_>, key: &str) -> String {
    let mut text = Cow::Borrowed(letter.text);
    if text.contains(['\r', '\n']) {
        text = text
            .replace("\r\n", LINE_BREAK)
            .replace(['\n', '\r'], LINE_BREAK)
            .into();
    }
    let constant = frame.fields.expose();
    let mut form = String::with_capacity(constant.len() + text.len() * 3 + 160);
    form.push_str(constant);
    if frame.marked {
        // Letters, digits, dots: nothing to escape. Writing to a String cannot fail.
        let _ = write!(form, "{}", letter.mark);
    }
    for (name, value) in [("&dstaddr=", to), ("&clientid=", key), ("&smbody=", &text)] {
        form.push_str(name);
        form.extend(form_urlencoded::byte_serialize(value.as_bytes()));
    }
    form
}

/// What an answer means to the message with this key.
pub(super) fn judge(answer: &Answer, key: &str) -> SendOutcome {
    let uncertain = |code: &str| SendOutcome::from(Refusal::new(ErrorClass::Uncertain, code));
    if answer.status != 200 {
        return not_mitake(answer).into();
    }
    let Some(reply) = reply(answer) else {
        return uncertain("200_not_as_promised");
    };
    // Older gateways number the messages of a request instead of naming them; then there is the one we sent.
    let ours = reply
        .section
        .is_some_and(|section| section == key || section == "0" || section == "1");
    match (reply.code, reply.message) {
        (Some("0" | "1" | "2" | "3" | "4"), Some(message)) if ours => SendOutcome::accepted(Some(message)),
        (Some("0" | "1" | "2" | "3" | "4") | None, None) if reply.section == Some(key) && reply.duplicate => {
            SendOutcome::accepted(None)
        }
        (None | Some("0" | "1" | "2" | "3" | "4"), _) => uncertain("200_not_as_promised"),
        // It has a message under this key; what it says of it here is not why this one was refused.
        (Some(_), _) if reply.duplicate => uncertain("duplicate_and_refused"),
        (Some(_), _) if !ours && reply.section.is_some() => uncertain("200_not_as_promised"),
        (Some(code), _) => of_code(code).into(),
    }
}

fn of_code(code: &str) -> Refusal {
    let said = format!("mitake {code}");
    match codes::mitake(code) {
        // "System error, ask us": nobody says that nothing left. The key makes asking again harmless.
        Some(_) if code == "*" => Refusal::new(ErrorClass::Uncertain, said),
        Some(ErrorClass::Throttled) if code != "l" => Refusal::new(ErrorClass::Throttled, said).after(Some(DOWN_WAIT)),
        Some(class) => Refusal::new(class, said),
        None => Refusal::new(ErrorClass::Uncertain, "mitake_unknown_code"),
    }
}

/// An answer that is not Mitake's: from a proxy, or from a wrong `base_url`.
fn not_mitake(answer: &Answer) -> Refusal {
    let code = format!("{} not_as_promised", answer.status);
    match answer.status {
        401 | 403 | 404 => Refusal::new(ErrorClass::Credentials, code),
        429 => Refusal::new(ErrorClass::Throttled, code).after(answer.retry_after()),
        _ => Refusal::new(ErrorClass::Uncertain, code).after(answer.retry_after()),
    }
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reply<'a> {
    section: Option<&'a str>,
    code: Option<&'a str>,
    message: Option<&'a str>,
    points: Option<&'a str>,
    duplicate: bool,
}

/// Reads Mitake's form: at most one `[section]`, then `key=value` lines, each key once. Anything else is not it. Keys we do not know,
/// and an `Error` in whatever characters, are passed over.
fn reply(answer: &Answer) -> Option<Reply<'_>> {
    let kind = answer.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| !kind.get(..5).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/"))) {
        return None;
    }
    read(answer.body.as_deref()?)
}

fn read(body: &[u8]) -> Option<Reply<'_>> {
    let mut reply = Reply::default();
    let mut keys: Vec<&str> = Vec::new();
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix(b"[").and_then(|line| line.strip_suffix(b"]")) {
            let name = str::from_utf8(name).ok()?;
            if reply.section.is_some() || !keys.is_empty() {
                return None;
            }
            reply.section = Some(name);
            continue;
        }
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (key, value) = line.split_at(at);
        let key = str::from_utf8(key).ok()?.trim_end();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let plain = || {
            let text = str::from_utf8(value).ok()?;
            ((1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())).then_some(text)
        };
        match key {
            "statuscode" => reply.code = Some(plain()?),
            "msgid" => reply.message = Some(plain()?),
            "AccountPoint" => reply.points = Some(plain().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?),
            "Duplicate" => match plain()? {
                "Y" => reply.duplicate = true,
                "N" => {}
                _ => return None,
            },
            _ => {}
        }
    }
    Some(reply)
}

#[cfg(test)]
mod tests;
