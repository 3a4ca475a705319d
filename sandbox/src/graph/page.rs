//! Messenger's Send API, and what a page can be asked about itself.
//! It exists so that a message Meta would refuse is refused here, field by field.
//! It must never accept a text beside an attachment, a label or a title that is too long, or a field it does not know.

use std::sync::atomic::Ordering;

use crate::channel::Channel;
use crate::check::{Fields, Findings, Limit, Place};
use crate::faults::Hit;
use crate::graph::answers::No;
use crate::graph::{Holder, Said, parameter, take};
use crate::http::{Answer, Request};
use crate::json::Json;
use crate::state::State;

const TEXT: Limit = Limit::Utf16(2_000);
const BUTTON_TEXT: Limit = Limit::Utf16(640);
const CARD_LINE: Limit = Limit::Utf16(80);
const LABEL: Limit = Limit::Utf16(20);
const METADATA: Limit = Limit::Utf16(1_000);
const URL_CHARS: usize = 2_000;

/// What a valid request says.
struct Order<'j> {
    to: &'j str,
    metadata: &'j str,
    text: String,
}

pub(super) fn send(
    state: &State,
    request: &Request<'_>,
    answer: &mut Answer,
    holder: &Holder,
    hit: &mut Hit,
) -> Result<(), No> {
    if !request.is_media_type("application/json") {
        return Err(No::not_json());
    }
    let json = Json::parse(request.body).map_err(|_| No::not_json())?;
    let mut found = Findings::default();
    let order = read(&json, &mut found);
    let Some(order) = order.filter(|_| found.wrong.is_empty()) else {
        return Err(No::parameter(Channel::Messenger, &found.wrong));
    };
    let said = Said {
        to: order.to,
        mark: order.metadata,
        text: &order.text,
        body: request.body,
    };
    answer.concerns(Channel::Messenger, order.to);
    if !take(state, holder, Channel::Messenger, hit, &said)? {
        return Ok(());
    }
    answer.set(200, r#"{"recipient_id":""#);
    answer.body.push_str(order.to);
    answer.body.push_str(r#"","message_id":"m_"#);
    state.graph.push_id(&mut answer.body);
    answer.body.push_str(r#""}"#);
    Ok(())
}

fn read<'j>(json: &'j Json<'j>, found: &mut Findings) -> Option<Order<'j>> {
    let root = Fields::open(
        json,
        Place::Root,
        &["recipient", "messaging_type", "message", "tag"],
        found,
    )?;
    root.text("messaging_type", Limit::Utf16(20), found);
    root.optional_choice("messaging_type", &["RESPONSE", "UPDATE", "MESSAGE_TAG"], found);
    let tagged = root.get("messaging_type").and_then(Json::as_text) == Some("MESSAGE_TAG");
    match root.get("tag").and_then(Json::as_text) {
        Some("HUMAN_AGENT") if tagged => {}
        None if !tagged => {}
        _ => root.wrong(
            "tag",
            "must be HUMAN_AGENT, with messaging_type MESSAGE_TAG and only then",
            found,
        ),
    }
    let recipient = root.required("recipient", found)?;
    let recipient = Fields::open(recipient, Place::Member(&Place::Root, "recipient"), &["id"], found)?;
    let to = recipient.text("id", Limit::Utf16(64), found)?;
    if !to.bytes().all(|b| b.is_ascii_digit()) {
        recipient.wrong("id", "must be a page-scoped id", found);
    }
    let place = Place::Member(&Place::Root, "message");
    let message = Fields::open(
        root.required("message", found)?,
        place,
        &["text", "attachment", "metadata"],
        found,
    )?;
    let metadata = message.optional_text("metadata", METADATA, found).unwrap_or("");
    let text = match (message.get("text"), message.get("attachment")) {
        (Some(_), None) => message.text("text", TEXT, found)?.to_owned(),
        (None, Some(attachment)) => read_attachment(attachment, &message, found)?,
        _ => {
            found.add(place, "must hold either text or attachment");
            return None;
        }
    };
    Some(Order { to, metadata, text })
}

fn read_attachment<'j>(attachment: &'j Json<'j>, message: &Fields<'j, '_>, found: &mut Findings) -> Option<String> {
    let place = Place::Member(&message.place, "attachment");
    let attachment = Fields::open(attachment, place, &["type", "payload"], found)?;
    let place = Place::Member(&attachment.place, "payload");
    let payload = attachment.required("payload", found)?;
    match attachment.text("type", Limit::Utf16(20), found)? {
        "image" => {
            let payload = Fields::open(payload, place, &["url", "is_reusable"], found)?;
            payload.https_url("url", URL_CHARS, found);
            payload.optional_bool("is_reusable", found);
            Some(String::new())
        }
        "template" => match payload.get("template_type").and_then(Json::as_text) {
            Some("button") => {
                let payload = Fields::open(payload, place, &["template_type", "text", "buttons"], found)?;
                let text = payload.text("text", BUTTON_TEXT, found)?.to_owned();
                payload.required("buttons", found)?;
                check_buttons(&payload, found);
                Some(text)
            }
            Some("generic") => {
                let payload = Fields::open(payload, place, &["template_type", "elements"], found)?;
                read_cards(&payload, found)
            }
            _ => {
                found.add(place, "template_type must be button or generic");
                None
            }
        },
        _ => {
            attachment.wrong("type", "must be image or template", found);
            None
        }
    }
}

fn read_cards(payload: &Fields<'_, '_>, found: &mut Findings) -> Option<String> {
    let list = Place::Member(&payload.place, "elements");
    let mut lines = Vec::new();
    for (index, card) in payload.list("elements", 1..=10, found)?.iter().enumerate() {
        let allowed = ["title", "subtitle", "image_url", "default_action", "buttons"];
        let card = Fields::open(card, Place::Item(&list, index), &allowed, found)?;
        lines.extend(card.text("title", CARD_LINE, found));
        lines.extend(card.optional_text("subtitle", CARD_LINE, found));
        card.optional_https_url("image_url", URL_CHARS, found);
        if let Some(action) = card.get("default_action") {
            let place = Place::Member(&card.place, "default_action");
            let allowed = [
                "type",
                "url",
                "webview_height_ratio",
                "messenger_extensions",
                "fallback_url",
            ];
            let action = Fields::open(action, place, &allowed, found)?;
            check_web_url(&action, found);
        }
        check_buttons(&card, found);
        let more = ["subtitle", "image_url", "buttons"];
        if more.iter().all(|name| card.get(name).is_none()) {
            found.add(card.place, "needs one more property beside title");
        }
    }
    Some(lines.join("\n"))
}

fn check_buttons(fields: &Fields<'_, '_>, found: &mut Findings) {
    if fields.get("buttons").is_none() {
        return;
    }
    let list = Place::Member(&fields.place, "buttons");
    for (index, button) in fields.list("buttons", 1..=3, found).unwrap_or(&[]).iter().enumerate() {
        let allowed = ["type", "url", "title", "webview_height_ratio"];
        if let Some(button) = Fields::open(button, Place::Item(&list, index), &allowed, found) {
            check_web_url(&button, found);
            button.text("title", LABEL, found);
        }
    }
}

fn check_web_url(fields: &Fields<'_, '_>, found: &mut Findings) {
    if fields.get("type").and_then(Json::as_text) != Some("web_url") {
        fields.wrong("type", "must be web_url", found);
    }
    fields.https_url("url", URL_CHARS, found);
}

/// `GET /me?fields=id,name`
pub(super) fn about(holder: &Holder) -> String {
    serde_json::json!({"id": holder.id, "name": holder.name}).to_string()
}

/// `GET /debug_token`, which an app asks about a token of its own.
pub(super) fn debug_token(state: &State, request: &Request<'_>) -> Result<String, No> {
    let token = parameter(request, "input_token").ok_or_else(No::unsupported)?;
    let data = match state.graph.holder(&token) {
        Some(holder) => serde_json::json!({
            "app_id": holder.app_id, "type": "PAGE", "is_valid": true, "expires_at": 0, "profile_id": holder.id,
            "scopes": holder.scopes,
        }),
        None => serde_json::json!({
            "is_valid": false, "scopes": [],
            "error": {"code": 190, "message": "Invalid OAuth access token"},
        }),
    };
    Ok(serde_json::json!({ "data": data }).to_string())
}

/// Edges of a page: the apps that are told of its messages, and those that come second.
pub(super) fn edge(holder: &Holder, request: &Request<'_>, id: &str, edge: &str, writes: bool) -> Result<String, No> {
    if holder.channel != Channel::Messenger || (id != "me" && id != holder.id) {
        return Err(No::unsupported());
    }
    let app = serde_json::json!({"id": holder.app_id, "name": "Carillon"});
    let list = |items: Vec<serde_json::Value>| serde_json::json!({ "data": items }).to_string();
    match (edge, writes) {
        ("subscribed_apps", true) => {
            let fields = parameter(request, "subscribed_fields").unwrap_or_default();
            if !fields.split(',').any(|field| field == "messages") {
                return Err(No::unsupported());
            }
            holder.subscribed.store(true, Ordering::Relaxed);
            Ok(r#"{"success":true}"#.to_owned())
        }
        ("subscribed_apps", false) if holder.subscribed.load(Ordering::Relaxed) => {
            let mut app = app;
            if let Some(fields) = app.as_object_mut() {
                let subscribed = [
                    "messages",
                    "messaging_postbacks",
                    "message_echoes",
                    "message_deliveries",
                    "message_reads",
                ];
                fields.insert("subscribed_fields".to_owned(), subscribed.as_slice().into());
            }
            Ok(list(vec![app]))
        }
        ("subscribed_apps", false) => Ok(list(Vec::new())),
        // Only the primary receiver may ask who comes second.
        ("secondary_receivers", false) if holder.is_primary_receiver.load(Ordering::Relaxed) => Ok(list(Vec::new())),
        ("secondary_receivers", false) => Err(No::not_primary()),
        _ => Err(No::unsupported()),
    }
}
