//! The FCM v1 message: which fields exist, what they may hold, how large the whole may be.
//! It exists so that a message Google would refuse is refused here, with the field's path.
//! It must never let an unknown field through. Only snake_case names are known, as in Google's REST reference.

use crate::check::{Fields, Findings, Limit, Place, is_url};
use crate::json::Json;

const MAX_PAYLOAD_BYTES: usize = 4096;
const MAX_TOPIC_PAYLOAD_BYTES: usize = 2048;
const MAX_TTL_SECS: f64 = 28.0 * 24.0 * 3600.0;
/// Google limits no text alone, only the whole; this is the whole.
const ANY: Limit = Limit::Utf16(MAX_PAYLOAD_BYTES);

const MESSAGE: [&str; 9] = [
    "name",
    "data",
    "notification",
    "android",
    "webpush",
    "apns",
    "fcm_options",
    "token",
    "topic",
];
const ANDROID: [&str; 8] = [
    "collapse_key",
    "priority",
    "ttl",
    "restricted_package_name",
    "data",
    "notification",
    "fcm_options",
    "direct_boot_ok",
];
const ANDROID_NOTIFICATION: [&str; 25] = [
    "title",
    "body",
    "icon",
    "color",
    "sound",
    "tag",
    "click_action",
    "body_loc_key",
    "body_loc_args",
    "title_loc_key",
    "title_loc_args",
    "channel_id",
    "ticker",
    "sticky",
    "event_time",
    "local_only",
    "notification_priority",
    "default_sound",
    "default_vibrate_timings",
    "default_light_settings",
    "vibrate_timings",
    "visibility",
    "notification_count",
    "light_settings",
    "image",
];

/// What a valid message says, for counting it.
pub(crate) struct Order<'j> {
    /// Registration token, or `/topics/…`, or the condition.
    pub(crate) recipient: String,
    /// A registration token that no device could have: refused as a bad recipient, not as a bad field.
    pub(crate) bad_token: bool,
    pub(crate) marker: &'j str,
    pub(crate) text: String,
    pub(crate) validate_only: bool,
}

/// Reads a whole request body.
pub(crate) fn read<'j>(json: &'j Json<'j>, found: &mut Findings) -> Option<Order<'j>> {
    let root = Fields::open(json, Place::Root, &["validate_only", "message"], found)?;
    let validate_only = root.optional_bool("validate_only", found);
    let message = root.required("message", found)?;
    let mut allowed = MESSAGE.to_vec();
    allowed.push("condition");
    let fields = Fields::open(message, Place::Member(&Place::Root, "message"), &allowed, found)?;
    let recipient = read_target(&fields, found);
    let mut text = String::new();
    check_notification(&fields, found, &mut text);
    check_data(&fields, found);
    check_android(&fields, found);
    check_apns(&fields, found);
    check_webpush(&fields, found);
    check_options(&fields, &["analytics_label"], found);
    check_size(message, &fields, found);
    let bad_token = fields
        .get("token")
        .and_then(Json::as_text)
        .is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic()));
    Some(Order {
        recipient: recipient?,
        bad_token,
        marker: marker(message),
        text,
        validate_only,
    })
}

fn read_target(fields: &Fields<'_, '_>, found: &mut Findings) -> Option<String> {
    let named: Vec<&str> = ["token", "topic", "condition"]
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let [name] = named.as_slice() else {
        found.add(fields.place, "Exactly one of token, topic or condition is required");
        return None;
    };
    let target = fields.text(name, ANY, found)?;
    match *name {
        "topic" => {
            let fits = target
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b));
            if !fits {
                fields.wrong("topic", "Malformed topic name", found);
            }
            Some(format!("/topics/{target}"))
        }
        _ => Some(target.to_owned()),
    }
}

/// The broadcast's marker, see `ReceivedMessage::marker`.
fn marker<'j>(message: &'j Json<'j>) -> &'j str {
    let at = |part: &str, name: &str| {
        message
            .get(part)
            .and_then(|part| part.get(name))
            .and_then(Json::as_text)
    };
    at("data", "broadcast_id")
        .or_else(|| at("android", "collapse_key"))
        .or_else(|| at("fcm_options", "analytics_label"))
        .unwrap_or("")
}

fn check_notification(fields: &Fields<'_, '_>, found: &mut Findings, text: &mut String) {
    let Some(notification) = fields.get("notification") else {
        return;
    };
    let place = Place::Member(&fields.place, "notification");
    let Some(notification) = Fields::open(notification, place, &["title", "body", "image"], found) else {
        return;
    };
    for name in ["title", "body"] {
        if let Some(part) = notification.optional_text(name, ANY, found) {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(part);
        }
    }
    notification.optional_https_url("image", 2000, found);
}

/// A map whose values are all text.
fn check_texts(fields: &Fields<'_, '_>, name: &str, found: &mut Findings) {
    let Some(map) = fields.get(name) else { return };
    let place = Place::Member(&fields.place, name);
    let Json::Object(members) = map else {
        return found.add(place, "must be an object");
    };
    for (key, value) in members {
        if value.as_text().is_none() {
            found.add(Place::Member(&place, key), "Invalid value (TYPE_STRING)");
        }
    }
}

fn check_data(fields: &Fields<'_, '_>, found: &mut Findings) {
    check_texts(fields, "data", found);
    let Some(Json::Object(members)) = fields.get("data") else {
        return;
    };
    let place = Place::Member(&fields.place, "data");
    for (key, _) in members {
        if key == "from" || key == "message_type" || key.starts_with("google") || key.starts_with("gcm") {
            found.add(Place::Member(&place, key), "Invalid data payload key");
        }
    }
}

fn check_options(fields: &Fields<'_, '_>, allowed: &[&str], found: &mut Findings) {
    let Some(options) = fields.get("fcm_options") else {
        return;
    };
    let place = Place::Member(&fields.place, "fcm_options");
    let Some(options) = Fields::open(options, place, allowed, found) else {
        return;
    };
    let labelled = |label: &str| {
        label.len() <= 50
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b))
    };
    if let Some(label) = options.optional_text("analytics_label", ANY, found)
        && !labelled(label)
    {
        options.wrong("analytics_label", "must match ^[a-zA-Z0-9-_.~%]{1,50}$", found);
    }
    options.optional_https_url("link", 2000, found);
    options.optional_https_url("image", 2000, found);
}

fn check_android(fields: &Fields<'_, '_>, found: &mut Findings) {
    let Some(android) = fields.get("android") else {
        return;
    };
    let place = Place::Member(&fields.place, "android");
    let Some(android) = Fields::open(android, place, &ANDROID, found) else {
        return;
    };
    android.optional_text("collapse_key", ANY, found);
    android.optional_choice("priority", &["HIGH", "NORMAL", "high", "normal"], found);
    if let Some(ttl) = android.optional_text("ttl", ANY, found) {
        let secs = ttl.strip_suffix('s').and_then(|secs| secs.parse::<f64>().ok());
        if !secs.is_some_and(|secs| (0.0..=MAX_TTL_SECS).contains(&secs)) {
            android.wrong(
                "ttl",
                "must be a duration in seconds ending with s, at most 28 days",
                found,
            );
        }
    }
    check_texts(&android, "data", found);
    check_options(&android, &["analytics_label"], found);
    if let Some(notification) = android.get("notification") {
        let place = Place::Member(&android.place, "notification");
        if let Some(notification) = Fields::open(notification, place, &ANDROID_NOTIFICATION, found) {
            for name in [
                "title",
                "body",
                "icon",
                "color",
                "sound",
                "tag",
                "click_action",
                "channel_id",
            ] {
                notification.optional_text(name, ANY, found);
            }
            notification.optional_https_url("image", 2000, found);
        }
    }
}

fn check_apns(fields: &Fields<'_, '_>, found: &mut Findings) {
    let Some(apns) = fields.get("apns") else {
        return;
    };
    let place = Place::Member(&fields.place, "apns");
    let allowed = ["headers", "payload", "fcm_options", "live_activity_token"];
    let Some(apns) = Fields::open(apns, place, &allowed, found) else {
        return;
    };
    check_texts(&apns, "headers", found);
    check_options(&apns, &["analytics_label", "image"], found);
    if let Some(payload) = apns.get("payload") {
        if payload.get("aps").is_none() {
            apns.wrong("payload", "must be an object with an aps member", found);
        }
        if payload.compact_len() > MAX_PAYLOAD_BYTES {
            apns.wrong("payload", "APNs payload is too big (max 4096 bytes)", found);
        }
    }
}

fn check_webpush(fields: &Fields<'_, '_>, found: &mut Findings) {
    let Some(webpush) = fields.get("webpush") else {
        return;
    };
    let place = Place::Member(&fields.place, "webpush");
    let Some(webpush) = Fields::open(
        webpush,
        place,
        &["headers", "data", "notification", "fcm_options"],
        found,
    ) else {
        return;
    };
    check_texts(&webpush, "headers", found);
    check_texts(&webpush, "data", found);
    check_options(&webpush, &["analytics_label", "link"], found);
    if let Some(link) = webpush
        .get("fcm_options")
        .and_then(|options| options.get("link"))
        .and_then(Json::as_text)
        && !is_url(link, &["https"])
    {
        webpush.wrong("fcm_options", "link must be an HTTPS URL", found);
    }
}

/// Data and notification, with Android's overrides, must fit in the payload.
fn check_size(message: &Json<'_>, fields: &Fields<'_, '_>, found: &mut Findings) {
    let android = message.get("android");
    let parts = [message.get("data"), message.get("notification")].into_iter().chain([
        android.and_then(|part| part.get("data")),
        android.and_then(|part| part.get("notification")),
    ]);
    let bytes: usize = parts.flatten().map(text_bytes).sum();
    let limit = if fields.get("token").is_some() {
        MAX_PAYLOAD_BYTES
    } else {
        MAX_TOPIC_PAYLOAD_BYTES
    };
    if bytes > limit {
        found.add(fields.place, format!("Message is too big (max {limit} bytes)"));
    }
}

/// Keys and texts of a flat object, in bytes.
fn text_bytes(value: &Json<'_>) -> usize {
    match value {
        Json::Object(members) => members.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        Json::Text(text) => text.len(),
        Json::List(items) => items.iter().map(text_bytes).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 4,
    }
}
