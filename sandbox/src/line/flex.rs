//! Flex containers: bubbles, carousels and their components.
//! It exists because text with a picture and a button travels as Flex, and LINE refuses the whole request for one
//! wrong property deep inside.
//! It must never let an unknown component or property through, nor a bubble over 30 KB.

use crate::check::{Fields, Findings, Limit, Place};
use crate::json::Json;
use crate::line::message::{Label, check_action};

const MAX_BUBBLE_BYTES: usize = 30 * 1024;
const MAX_CAROUSEL_BYTES: usize = 50 * 1024;

/// Properties every positioned component shares.
const LAYOUT: [&str; 11] = [
    "type",
    "flex",
    "margin",
    "position",
    "offsetTop",
    "offsetBottom",
    "offsetStart",
    "offsetEnd",
    "align",
    "gravity",
    "size",
];

const BOX: [&str; 20] = [
    "layout",
    "contents",
    "backgroundColor",
    "borderColor",
    "borderWidth",
    "cornerRadius",
    "width",
    "maxWidth",
    "height",
    "maxHeight",
    "spacing",
    "paddingAll",
    "paddingTop",
    "paddingBottom",
    "paddingStart",
    "paddingEnd",
    "action",
    "justifyContent",
    "alignItems",
    "background",
];
const TEXT: [&str; 12] = [
    "text",
    "contents",
    "adjustMode",
    "wrap",
    "lineSpacing",
    "maxLines",
    "weight",
    "color",
    "action",
    "style",
    "decoration",
    "scaling",
];
const IMAGE: [&str; 6] = [
    "url",
    "aspectRatio",
    "aspectMode",
    "backgroundColor",
    "action",
    "animated",
];
const BUTTON: [&str; 6] = ["action", "height", "style", "color", "adjustMode", "scaling"];

/// Checks a bubble or a carousel.
pub(crate) fn check_container(value: &Json<'_>, place: Place<'_>, found: &mut Findings) {
    match value.get("type").and_then(Json::as_text) {
        Some("bubble") => check_bubble(value, place, found),
        Some("carousel") => {
            let Some(fields) = Fields::open(value, place, &["type", "contents"], found) else {
                return;
            };
            let Some(bubbles) = fields.list("contents", 1..=12, found) else {
                return;
            };
            let place = Place::Member(&fields.place, "contents");
            for (index, bubble) in bubbles.iter().enumerate() {
                check_bubble(bubble, Place::Item(&place, index), found);
            }
            if value.compact_len() > MAX_CAROUSEL_BYTES {
                found.add(fields.place, "carousel must be at most 50 KB");
            }
        }
        _ => found.add(Place::Member(&place, "type"), "must be bubble or carousel"),
    }
}

fn check_bubble(value: &Json<'_>, place: Place<'_>, found: &mut Findings) {
    let allowed = [
        "type",
        "size",
        "direction",
        "header",
        "hero",
        "body",
        "footer",
        "styles",
        "action",
    ];
    let Some(fields) = Fields::open(value, place, &allowed, found) else {
        return;
    };
    if value.get("type").and_then(Json::as_text) != Some("bubble") {
        fields.wrong("type", "must be bubble", found);
    }
    fields.optional_choice(
        "size",
        &["nano", "micro", "deca", "hecto", "kilo", "mega", "giga"],
        found,
    );
    fields.optional_choice("direction", &["ltr", "rtl"], found);
    if value.compact_len() > MAX_BUBBLE_BYTES {
        found.add(fields.place, "bubble must be at most 30 KB");
    }
    for (name, kinds) in [
        ("header", &["box"][..]),
        ("hero", &["image", "box"]),
        ("body", &["box"]),
        ("footer", &["box"]),
    ] {
        let Some(block) = fields.get(name) else {
            continue;
        };
        let place = Place::Member(&fields.place, name);
        if !block
            .get("type")
            .and_then(Json::as_text)
            .is_some_and(|kind| kinds.contains(&kind))
        {
            found.add(Place::Member(&place, "type"), format!("must be one of {kinds:?}"));
            continue;
        }
        check_component(block, place, found);
    }
    check_own_action(&fields, found);
}

fn check_own_action(fields: &Fields<'_, '_>, found: &mut Findings) {
    if let Some(action) = fields.get("action") {
        check_action(
            action,
            Place::Member(&fields.place, "action"),
            Label::Optional(40),
            found,
        );
    }
}

fn check_component(value: &Json<'_>, place: Place<'_>, found: &mut Findings) {
    let kind = value.get("type").and_then(Json::as_text);
    let own: &[&str] = match kind {
        Some("box") => &BOX,
        Some("text") => &TEXT,
        Some("image") => &IMAGE,
        Some("button") => &BUTTON,
        Some("separator") => &["color"],
        Some("filler") => &[],
        Some("span") => &["text", "color", "weight", "style", "decoration"],
        Some("icon") => &["url", "aspectRatio", "scaling"],
        Some(_) => {
            return found.add(Place::Member(&place, "type"), "is not a component this sandbox knows");
        }
        None => return found.add(Place::Member(&place, "type"), "May not be empty"),
    };
    let Json::Object(members) = value else { return };
    for (name, _) in members {
        if !LAYOUT.contains(&name.as_ref()) && !own.contains(&name.as_ref()) {
            found.add(Place::Member(&place, name), "Unknown property");
        }
    }
    // The two lists together are the allowed set; it was checked just above.
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
    let Some(fields) = Fields::open(value, place, &names, found) else {
        return;
    };
    match kind {
        Some("box") => check_box(&fields, found),
        Some("text") => {
            if fields.get("contents").is_none() {
                fields.text("text", Limit::Utf16(2000), found);
            }
            fields.optional_bool("wrap", found);
            fields.optional_choice("weight", &["regular", "bold"], found);
            check_children(&fields, found);
            check_own_action(&fields, found);
        }
        Some("image") => {
            fields.https_url("url", 2000, found);
            fields.optional_choice("aspectMode", &["cover", "fit"], found);
            check_own_action(&fields, found);
        }
        Some("button") => {
            fields.optional_choice("style", &["primary", "secondary", "link"], found);
            fields.optional_choice("height", &["sm", "md"], found);
            if let Some(action) = fields.required("action", found) {
                check_action(
                    action,
                    Place::Member(&fields.place, "action"),
                    Label::Required(40),
                    found,
                );
            }
        }
        Some("span") => {
            fields.text("text", Limit::Utf16(2000), found);
        }
        Some("icon") => fields.https_url("url", 2000, found),
        _ => {}
    }
}

fn check_box(fields: &Fields<'_, '_>, found: &mut Findings) {
    if fields.required("layout", found).is_some() {
        fields.optional_choice("layout", &["horizontal", "vertical", "baseline"], found);
    }
    if fields.required("contents", found).is_some() {
        check_children(fields, found);
    }
    check_own_action(fields, found);
}

fn check_children(fields: &Fields<'_, '_>, found: &mut Findings) {
    let Some(contents) = fields.get("contents") else {
        return;
    };
    let place = Place::Member(&fields.place, "contents");
    let Some(children) = contents.as_list() else {
        return found.add(place, "must be an array");
    };
    for (index, child) in children.iter().enumerate() {
        check_component(child, Place::Item(&place, index), found);
    }
}

/// Collects every `text` and button `label` inside a container, one per line.
pub(crate) fn see_texts(value: &Json<'_>, seen: &mut String) {
    match value {
        Json::Object(members) => {
            for (name, value) in members {
                match value {
                    Json::Text(text) if name == "text" || name == "label" => {
                        seen.push('\n');
                        seen.push_str(text);
                    }
                    _ => see_texts(value, seen),
                }
            }
        }
        Json::List(items) => items.iter().for_each(|item| see_texts(item, seen)),
        _ => {}
    }
}
