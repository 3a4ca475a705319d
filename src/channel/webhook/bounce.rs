//! Mail that came back: delivery reports (RFC 3464) and complaints (RFC 5965), as the mail server took them (pure).
//!
//! Why it exists: a relay takes a mail and finds out later that nobody is there. The report says so in fields of its own, in one
//! part of a mail; which delivery it is about stands only in the address it was sent to.
//!
//! It must never believe a report about a mail that cannot be shown to be ours: anybody can write one, about anybody. So it names
//! no customer by what the report says; the mark does.

use chrono::{DateTime, Utc};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use url::form_urlencoded;

use super::{ParseError, Receipt, ReceiptOf, ReceiptState, WebhookEvent, What, json};
use crate::channel::{DeliveryMark, ErrorClass, ReturnPathKey};

/// Where the address that the report was sent to may stand, after the query's `to`.
const SENT_TO: [&str; 5] = ["X-Original-To", "Delivered-To", "Envelope-To", "X-Envelope-To", "To"];
/// The most recipients of one report; a mail of ours has one.
const RECIPIENTS: usize = 100;

pub(super) fn events(
    mail: &[u8],
    query: &str,
    received_at: DateTime<Utc>,
    keys: &[ReturnPathKey],
) -> Result<Vec<WebhookEvent>, ParseError> {
    let parsed = MessageParser::new().parse(mail).map(Parsed);
    let Some(Parsed(message)) = parsed.as_ref().filter(|parsed| !parsed.0.headers().is_empty()) else {
        return Err(ParseError::Shape("a mail has headers"));
    };
    let at = message
        .date()
        .and_then(|date| DateTime::from_timestamp(date.to_timestamp(), 0));
    let at = at.map_or(received_at, |at| json::believable(at.min(received_at), received_at));
    let event = |key, what| WebhookEvent {
        account: None,
        key,
        at,
        from: None,
        what,
    };
    let unknown = |kind: &str| vec![event(json::key_of_bytes("mail", mail), What::Unknown(json::name(kind)))];
    let kind = message.content_type().and_then(|kind| kind.attribute("report-type"));
    let (report_type, part) = match kind {
        Some(kind) if kind.eq_ignore_ascii_case("delivery-status") => {
            ("delivery-status", part(message, "delivery-status"))
        }
        Some(kind) if kind.eq_ignore_ascii_case("feedback-report") => {
            ("feedback-report", part(message, "feedback-report"))
        }
        // An answer of a person or a robot, or a report in no form anybody agreed on.
        Some(_) | None => return Ok(unknown("mail")),
    };
    let Some(part) = part else {
        return Ok(unknown(&format!("{report_type}.empty")));
    };
    let groups = groups(&part);
    let Some(mark) = mark(message, query, &groups, keys) else {
        return Ok(unknown(&format!("{report_type}.unproven")));
    };
    if report_type == "feedback-report" {
        return Ok(vec![event(
            json::key("complaint", &[&mark.to_string()]),
            complaint(mark),
        )]);
    }
    let recipients = groups
        .iter()
        .filter(|group| group.get("action").is_some())
        .take(RECIPIENTS);
    let mut events: Vec<_> = recipients
        .map(|group| {
            let action = group.get("action").unwrap_or_default().to_ascii_lowercase();
            let status = group.get("status").unwrap_or_default();
            let key = json::key(
                "report",
                &[&mark.to_string(), &json::name(&action), &json::name(status)],
            );
            event(key, report(mark, &action, group))
        })
        .collect();
    events.dedup_by(|one, other| one.key == other.key);
    if events.is_empty() {
        events = unknown("delivery-status.empty");
    }
    Ok(events)
}

/// A parsed mail. Mails inside mails inside mails are taken apart one by one when it ends: by itself each would end the next inside
/// itself, and ten thousand of them, which anybody can send, would end the process.
struct Parsed<'a>(Message<'a>);

impl Drop for Parsed<'_> {
    fn drop(&mut self) {
        let mut inside = std::mem::take(&mut self.0.parts);
        while let Some(mut part) = inside.pop() {
            if let PartType::Message(message) = &mut part.body {
                inside.append(&mut message.parts);
            }
        }
    }
}

/// A group of fields: names in small letters, folded lines joined.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.as_str())
    }
}

/// The text of the part that says it in fields.
fn part(message: &Message<'_>, subtype: &str) -> Option<String> {
    let part = message.parts.iter().find(|part| {
        let kind = part.content_type();
        kind.is_some_and(|kind| {
            let sub = kind.subtype().unwrap_or_default();
            // The form of RFC 6533 for addresses beyond ASCII.
            kind.ctype().eq_ignore_ascii_case("message")
                && (sub.eq_ignore_ascii_case(subtype) || sub.eq_ignore_ascii_case(&format!("global-{subtype}")))
        })
    })?;
    match &part.body {
        PartType::Text(text) | PartType::Html(text) => Some(text.to_string()),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        // Read as a mail inside: its own bytes are what counts.
        PartType::Message(inner) => Some(String::from_utf8_lossy(inner.raw_message()).into_owned()),
        PartType::Multipart(_) => None,
    }
}

/// Groups are separated by empty lines; the first is about the report, the others about one recipient each.
fn groups(text: &str) -> Vec<Fields> {
    let mut groups = vec![Fields(Vec::new())];
    for line in text.lines() {
        let Some(group) = groups.last_mut() else {
            break;
        };
        if line.trim().is_empty() {
            if !group.0.is_empty() {
                if groups.len() > RECIPIENTS {
                    break;
                }
                groups.push(Fields(Vec::new()));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = group.0.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            group
                .0
                .push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    groups
}

/// The delivery it is about, by the address it was sent to, or by the envelope sender that a complaint repeats.
fn mark(message: &Message<'_>, query: &str, groups: &[Fields], keys: &[ReturnPathKey]) -> Option<DeliveryMark> {
    let asked = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "to");
    let asked = asked.map(|(_, address)| address.into_owned());
    let headers = message.headers_raw().filter(|(name, _)| {
        let name = name.trim();
        SENT_TO.iter().any(|known| known.eq_ignore_ascii_case(name))
    });
    let headers = headers.map(|(_, value)| value.to_owned());
    let repeated = groups
        .iter()
        .filter_map(|group| group.get("original-mail-from"))
        .map(str::to_owned);
    let addresses = asked
        .chain(headers)
        .chain(repeated)
        .take(RECIPIENTS)
        .collect::<Vec<_>>();
    let words = addresses
        .iter()
        .flat_map(|text| text.split([',', ' ', '\t', '\r', '\n']));
    words
        .filter(|word| word.contains('@'))
        .find_map(|address| keys.iter().find_map(|key| key.read(address)))
}

/// It arrived, and it was not wanted.
fn complaint(mark: DeliveryMark) -> What {
    What::Complained { mark }
}

fn report(mark: DeliveryMark, action: &str, group: &Fields) -> What {
    let state = match action {
        "failed" => failed(group),
        "delivered" => ReceiptState::Delivered,
        "relayed" | "expanded" => ReceiptState::Sent,
        // `delayed` is no bounce: the relay goes on trying.
        _ => return What::Unknown(json::name(&format!("delivery-status.{action}"))),
    };
    let of = ReceiptOf::Message {
        provider_id: None,
        mark: Some(mark),
    };
    What::Receipt(Receipt { of, state })
}

fn failed(group: &Fields) -> ReceiptState {
    let status = group.get("status").and_then(enhanced);
    let diagnostic = group.get("diagnostic-code").unwrap_or_default();
    let said = diagnostic.split_once(';').map_or(diagnostic, |(_, said)| said).trim();
    // 5.0.0 says nothing; the far server's own words may.
    let told = match status {
        Some((_, 0, 0)) | None => said.split([' ', '-']).find_map(enhanced).or(status),
        Some(_) => status,
    };
    let nobody = told.is_none_or(|(_, subject, _)| subject == 0) && names_nobody(said);
    let (class, closes_address) = match told {
        _ if nobody => (ErrorClass::Recipient, true),
        // About the sender's address, or policy: the far server does not trust us, and no customer can help it.
        Some((_, 1, 7 | 8) | (_, 7, _)) => (ErrorClass::Credentials, false),
        // No such mailbox or domain; 2.1 is a mailbox that is no longer used.
        Some((class, 1, _) | (class, 2, 1)) => (ErrorClass::Recipient, class == 5),
        Some((_, 2, 3) | (_, 3, 4) | (_, 5 | 6, _)) => (ErrorClass::Content, false),
        Some((_, 3, _)) => (ErrorClass::Throttled, false),
        // A full mailbox, no way there for days, or words that say nothing: over for this mail, not for the next.
        Some(_) | None => (ErrorClass::Recipient, false),
    };
    let code = told.map_or_else(
        || "report".to_owned(),
        |(class, subject, detail)| format!("report {class}.{subject}.{detail}"),
    );
    ReceiptState::Failed {
        class,
        code,
        closes_address,
    }
}

/// `5.1.1`, with or without words behind it.
fn enhanced(text: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = text.split_whitespace().next()?.split('.');
    let mut next = || numbers.next()?.parse::<u16>().ok().filter(|n| *n < 1_000);
    let (class, subject, detail) = (next()?, next()?, next()?);
    (matches!(class, 4 | 5) && numbers.next().is_none()).then_some((class, subject, detail))
}

/// What servers say that have no enhanced codes.
fn names_nobody(said: &str) -> bool {
    let final_reply = ["550", "551", "553"].iter().any(|code| said.starts_with(code));
    let said = said.to_ascii_lowercase();
    let words = [
        "user unknown",
        "unknown user",
        "no such user",
        "does not exist",
        "no mailbox",
        "invalid recipient",
    ];
    final_reply && words.iter().any(|word| said.contains(word))
}
