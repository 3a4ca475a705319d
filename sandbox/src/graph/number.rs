//! WhatsApp's Cloud API: one message to one number, and what a number can be asked about itself.
//! It exists so that a message Meta would refuse is refused here, field by field.
//! It must never take a recipient without its `+`, a text that is too long, or a template that nobody approved.

use crate::channel::Channel;
use crate::check::{Fields, Findings, Limit, Place};
use crate::faults::Hit;
use crate::graph::answers::No;
use crate::graph::{Holder, Said, take};
use crate::http::{Answer, Request};
use crate::json::Json;
use crate::state::State;

const TEXT: Limit = Limit::Utf16(4_096);
const CAPTION: Limit = Limit::Utf16(1_024);
const LABEL: Limit = Limit::Utf16(20);
const FOOTER: Limit = Limit::Utf16(60);
const CALLBACK: Limit = Limit::Utf16(512);
const ANY: Limit = Limit::Utf16(usize::MAX);
const URL_CHARS: usize = 2_000;

/// What a valid request says.
struct Order<'j> {
    to: &'j str,
    mark: &'j str,
    text: String,
    /// `name/language`.
    template: Option<String>,
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
        return Err(No::parameter(Channel::Whatsapp, &found.wrong));
    };
    if order
        .template
        .as_ref()
        .is_some_and(|name| !holder.templates.contains(name))
    {
        return Err(No::no_template());
    }
    let said = Said {
        to: order.to,
        mark: order.mark,
        text: &order.text,
        body: request.body,
    };
    answer.concerns(Channel::Whatsapp, order.to);
    if !take(state, holder, Channel::Whatsapp, hit, &said)? {
        return Ok(());
    }
    answer.set(200, r#"{"messaging_product":"whatsapp","contacts":[{"input":""#);
    answer.body.push_str(order.to);
    answer.body.push_str(r#"","wa_id":""#);
    answer.body.push_str(order.to.trim_start_matches('+'));
    answer.body.push_str(r#""}],"messages":[{"id":"wamid."#);
    state.graph.push_id(&mut answer.body);
    answer.body.push_str(r#"","message_status":"accepted"}]}"#);
    Ok(())
}

fn read<'j>(json: &'j Json<'j>, found: &mut Findings) -> Option<Order<'j>> {
    let allowed = [
        "messaging_product",
        "recipient_type",
        "to",
        "type",
        "text",
        "image",
        "interactive",
        "template",
        "biz_opaque_callback_data",
        "context",
    ];
    let root = Fields::open(json, Place::Root, &allowed, found)?;
    root.required("messaging_product", found);
    root.optional_choice("messaging_product", &["whatsapp"], found);
    root.optional_choice("recipient_type", &["individual"], found);
    let mark = root
        .optional_text("biz_opaque_callback_data", CALLBACK, found)
        .unwrap_or("");
    let to = root.text("to", Limit::Utf16(32), found)?;
    let digits = to
        .strip_prefix('+')
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !digits.is_some_and(|digits| (7..=15).contains(&digits.len())) {
        root.wrong("to", "must be a number with its country", found);
    }
    let kind = root.text("type", Limit::Utf16(20), found)?;
    for other in ["text", "image", "interactive", "template"] {
        if other != kind && root.get(other).is_some() {
            root.wrong(other, "is not of this type", found);
        }
    }
    let place = Place::Member(&Place::Root, kind);
    let part = root.required(kind, found)?;
    let mut template = None;
    let text = match kind {
        "text" => {
            let part = Fields::open(part, place, &["body", "preview_url"], found)?;
            part.optional_bool("preview_url", found);
            part.text("body", TEXT, found)?.to_owned()
        }
        "image" => {
            let part = Fields::open(part, place, &["link", "caption"], found)?;
            part.https_url("link", URL_CHARS, found);
            part.optional_text("caption", CAPTION, found).unwrap_or("").to_owned()
        }
        "interactive" => read_interactive(
            &Fields::open(part, place, &["type", "header", "body", "footer", "action"], found)?,
            found,
        )?,
        "template" => {
            let part = Fields::open(part, place, &["name", "language", "components"], found)?;
            let (name, text) = read_template(&part, found)?;
            template = Some(name);
            text
        }
        _ => {
            root.wrong("type", "must be text, image, interactive or template", found);
            return None;
        }
    };
    Some(Order {
        to,
        mark,
        text,
        template,
    })
}

fn read_interactive(part: &Fields<'_, '_>, found: &mut Findings) -> Option<String> {
    if part.get("type").and_then(Json::as_text) != Some("cta_url") {
        part.wrong("type", "must be cta_url", found);
    }
    if let Some(header) = part.get("header") {
        let place = Place::Member(&part.place, "header");
        let header = Fields::open(header, place, &["type", "image"], found)?;
        header.optional_choice("type", &["image"], found);
        let place = Place::Member(&header.place, "image");
        let image = Fields::open(header.required("image", found)?, place, &["link"], found)?;
        image.https_url("link", URL_CHARS, found);
    }
    if let Some(footer) = part.get("footer") {
        let place = Place::Member(&part.place, "footer");
        Fields::open(footer, place, &["text"], found)?.text("text", FOOTER, found);
    }
    let place = Place::Member(&part.place, "action");
    let action = Fields::open(part.required("action", found)?, place, &["name", "parameters"], found)?;
    action.required("name", found);
    action.optional_choice("name", &["cta_url"], found);
    let place = Place::Member(&action.place, "parameters");
    let parameters = action.required("parameters", found)?;
    let parameters = Fields::open(parameters, place, &["display_text", "url"], found)?;
    parameters.text("display_text", LABEL, found);
    parameters.https_url("url", URL_CHARS, found);
    let place = Place::Member(&part.place, "body");
    let body = Fields::open(part.required("body", found)?, place, &["text"], found)?;
    body.text("text", CAPTION, found).map(str::to_owned)
}

/// The template as `name/language`, and what its blanks say.
fn read_template(part: &Fields<'_, '_>, found: &mut Findings) -> Option<(String, String)> {
    let name = part.text("name", Limit::Utf16(512), found)?;
    let place = Place::Member(&part.place, "language");
    let language = Fields::open(part.required("language", found)?, place, &["code"], found)?;
    let code = language.text("code", Limit::Utf16(10), found)?;
    let list = Place::Member(&part.place, "components");
    let mut lines = Vec::new();
    for (index, component) in part.list("components", 0..=12, found)?.iter().enumerate() {
        let allowed = ["type", "sub_type", "index", "parameters"];
        let component = Fields::open(component, Place::Item(&list, index), &allowed, found)?;
        let kind = component.text("type", ANY, found)?;
        component.optional_choice("type", &["header", "body", "button"], found);
        let place = Place::Member(&component.place, "parameters");
        for (index, parameter) in component.list("parameters", 0..=10, found)?.iter().enumerate() {
            let allowed = ["type", "text", "image"];
            let parameter = Fields::open(parameter, Place::Item(&place, index), &allowed, found)?;
            match parameter.text("type", ANY, found)? {
                "image" if kind == "header" => {
                    let place = Place::Member(&parameter.place, "image");
                    let image = Fields::open(parameter.required("image", found)?, place, &["link"], found)?;
                    image.https_url("link", URL_CHARS, found);
                }
                "text" => {
                    let text = parameter.text("text", CAPTION, found)?;
                    if text.contains(['\n', '\t']) || text.contains("     ") {
                        parameter.wrong(
                            "text",
                            "cannot have new-line/tab characters or more than 4 spaces",
                            found,
                        );
                    }
                    lines.push(text);
                }
                _ => parameter.wrong("type", "is not of this component", found),
            }
        }
    }
    Some((format!("{name}/{code}"), lines.join("\n")))
}

/// `GET /{phone-number-id}`
pub(super) fn about(holder: &Holder) -> String {
    serde_json::json!({
        "id": holder.id, "display_phone_number": holder.number, "verified_name": holder.name,
        "quality_rating": "GREEN", "throughput": {"level": "STANDARD"},
        "whatsapp_business_manager_messaging_limit": "TIER_2K",
    })
    .to_string()
}
