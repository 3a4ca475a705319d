//! LINE message objects: which properties each type has, which are required, how long each may be.
//! It exists so that a message LINE would refuse is refused here, with LINE's shape of error.
//! It must never let an unknown property through. Types the product does not send (stickers, video, imagemaps …) are
//! refused by name rather than half checked.

use crate::check::{Fields, Findings, Limit, Place, is_url};
use crate::json::Json;
use crate::line::flex;

const MAX_URL: usize = 2000;

/// Checks a `messages` list and collects what a person would read, one text per line.
pub(crate) fn check_messages(value: &Json<'_>, place: Place<'_>, found: &mut Findings, seen: &mut String) -> usize {
    let Some(messages) = value.as_list() else {
        found.add(place, "must be an array");
        return 0;
    };
    if messages.is_empty() || messages.len() > 5 {
        found.add(place, "Size must be between 1 and 5");
    }
    for (index, message) in messages.iter().enumerate() {
        check_message(message, Place::Item(&place, index), found, seen);
    }
    messages.len()
}

fn see(seen: &mut String, text: Option<&str>) {
    if let Some(text) = text {
        if !seen.is_empty() {
            seen.push('\n');
        }
        seen.push_str(text);
    }
}

fn check_message(value: &Json<'_>, place: Place<'_>, found: &mut Findings, seen: &mut String) {
    let kind = value.get("type").and_then(Json::as_text);
    let allowed: &[&str] = match kind {
        Some("text") => &["type", "text", "emojis", "quoteToken", "quickReply", "sender"],
        Some("image") => &["type", "originalContentUrl", "previewImageUrl", "quickReply", "sender"],
        Some("template") => &["type", "altText", "template", "quickReply", "sender"],
        Some("flex") => &["type", "altText", "contents", "quickReply", "sender"],
        Some(_) => {
            return found.add(
                Place::Member(&place, "type"),
                "is not a message type this sandbox knows",
            );
        }
        None => return found.add(Place::Member(&place, "type"), "May not be empty"),
    };
    let Some(fields) = Fields::open(value, place, allowed, found) else {
        return;
    };
    match kind {
        Some("text") => {
            see(seen, fields.text("text", Limit::Utf16(5000), found));
            fields.optional_text("quoteToken", Limit::Utf16(1000), found);
        }
        Some("image") => {
            fields.https_url("originalContentUrl", MAX_URL, found);
            fields.https_url("previewImageUrl", MAX_URL, found);
            see(seen, fields.get("originalContentUrl").and_then(Json::as_text));
        }
        Some("template") => {
            fields.text("altText", Limit::Utf16(1500), found);
            if let Some(template) = fields.required("template", found) {
                check_template(template, Place::Member(&fields.place, "template"), found, seen);
            }
        }
        _ => {
            see(seen, fields.text("altText", Limit::Utf16(1500), found));
            if let Some(contents) = fields.required("contents", found) {
                flex::check_container(contents, Place::Member(&fields.place, "contents"), found);
                flex::see_texts(contents, seen);
            }
        }
    }
    check_extras(&fields, found);
}

/// `sender` and `quickReply`, which any message may carry.
fn check_extras(fields: &Fields<'_, '_>, found: &mut Findings) {
    if let Some(sender) = fields.get("sender") {
        let place = Place::Member(&fields.place, "sender");
        if let Some(sender) = Fields::open(sender, place, &["name", "iconUrl"], found) {
            sender.optional_text("name", Limit::Utf16(20), found);
            sender.optional_https_url("iconUrl", MAX_URL, found);
        }
    }
    if let Some(quick) = fields.get("quickReply") {
        let place = Place::Member(&fields.place, "quickReply");
        let Some(quick) = Fields::open(quick, place, &["items"], found) else {
            return;
        };
        let Some(items) = quick.list("items", 1..=13, found) else {
            return;
        };
        let place = Place::Member(&quick.place, "items");
        for (index, item) in items.iter().enumerate() {
            let place = Place::Item(&place, index);
            let Some(item) = Fields::open(item, place, &["type", "imageUrl", "action"], found) else {
                continue;
            };
            item.optional_https_url("imageUrl", MAX_URL, found);
            if let Some(action) = item.required("action", found) {
                check_action(action, Place::Member(&item.place, "action"), Label::Required(20), found);
            }
        }
    }
}

fn check_template(value: &Json<'_>, place: Place<'_>, found: &mut Findings, seen: &mut String) {
    let allowed: &[&str] = match value.get("type").and_then(Json::as_text) {
        Some("buttons") => &[
            "type",
            "thumbnailImageUrl",
            "imageAspectRatio",
            "imageSize",
            "imageBackgroundColor",
            "title",
            "text",
            "defaultAction",
            "actions",
        ],
        Some("confirm") => &["type", "text", "actions"],
        Some(_) => {
            return found.add(
                Place::Member(&place, "type"),
                "is not a template type this sandbox knows",
            );
        }
        None => return found.add(Place::Member(&place, "type"), "May not be empty"),
    };
    let Some(fields) = Fields::open(value, place, allowed, found) else {
        return;
    };
    let confirm = !allowed.contains(&"title");
    fields.optional_https_url("thumbnailImageUrl", MAX_URL, found);
    fields.optional_choice("imageAspectRatio", &["rectangle", "square"], found);
    fields.optional_choice("imageSize", &["cover", "contain"], found);
    let title = fields.optional_text("title", Limit::Graphemes(40), found);
    see(seen, title);
    let pictured = title.is_some() || fields.get("thumbnailImageUrl").is_some();
    let text_limit = match (confirm, pictured) {
        (true, _) => 240,
        (false, true) => 60,
        (false, false) => 160,
    };
    see(seen, fields.text("text", Limit::Graphemes(text_limit), found));
    if let Some(action) = fields.get("defaultAction") {
        check_action(
            action,
            Place::Member(&fields.place, "defaultAction"),
            Label::Optional(20),
            found,
        );
    }
    let count = if confirm { 2..=2 } else { 1..=4 };
    if let Some(actions) = fields.list("actions", count, found) {
        let place = Place::Member(&fields.place, "actions");
        for (index, action) in actions.iter().enumerate() {
            check_action(action, Place::Item(&place, index), Label::Required(20), found);
        }
    }
}

/// Whether an action needs a label, and its limit in grapheme clusters.
#[derive(Clone, Copy)]
pub(crate) enum Label {
    Required(usize),
    Optional(usize),
}

/// Checks an action object: `uri`, `message` or `postback`.
pub(crate) fn check_action(value: &Json<'_>, place: Place<'_>, label: Label, found: &mut Findings) {
    let kind = value.get("type").and_then(Json::as_text);
    let allowed: &[&str] = match kind {
        Some("uri") => &["type", "label", "uri", "altUri"],
        Some("message") => &["type", "label", "text"],
        Some("postback") => &["type", "label", "data", "displayText", "inputOption", "fillInText"],
        Some(_) => {
            return found.add(
                Place::Member(&place, "type"),
                "is not an action type this sandbox knows",
            );
        }
        None => return found.add(Place::Member(&place, "type"), "May not be empty"),
    };
    let Some(fields) = Fields::open(value, place, allowed, found) else {
        return;
    };
    match label {
        Label::Required(limit) => fields.text("label", Limit::Graphemes(limit), found),
        Label::Optional(limit) => fields.optional_text("label", Limit::Graphemes(limit), found),
    };
    match kind {
        Some("uri") => {
            check_link(&fields, "uri", found);
            if let Some(alt) = fields.get("altUri") {
                let place = Place::Member(&fields.place, "altUri");
                if let Some(alt) = Fields::open(alt, place, &["desktop"], found) {
                    check_link(&alt, "desktop", found);
                }
            }
        }
        Some("message") => {
            fields.text("text", Limit::Utf16(300), found);
        }
        _ => {
            fields.text("data", Limit::Utf16(300), found);
            fields.optional_text("displayText", Limit::Utf16(300), found);
            fields.optional_text("fillInText", Limit::Utf16(300), found);
        }
    }
}

fn check_link(fields: &Fields<'_, '_>, name: &str, found: &mut Findings) {
    if let Some(uri) = fields.text(name, Limit::Utf16(1000), found)
        && !is_url(uri, &["http", "https", "line", "tel"])
    {
        fields.wrong(name, "invalid uri scheme", found);
    }
}
