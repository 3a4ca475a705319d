//! App push (pure): the members of FCM's `message`.
//!
//! FCM has no idempotency key. A duplicate is made harmless instead: every copy of a broadcast carries the same
//! collapse key and tag, so a second one replaces the first on the screen.

use super::{
    Letterhead,
    form::{Blank, Escape, Form},
};
use crate::channel::{Content, merge::Pattern};

/// Seconds FCM keeps trying: a day, as long as a broadcast itself goes on.
const LIFETIME: &str = "86400s";

/// Everything after `"token":"…",`, without the closing brace of `message`.
pub(super) fn form(content: &Content, letterhead: &Letterhead<'_>, shop_url: &str) -> Form {
    let mark = format!("bc-{}", letterhead.broadcast.0.simple());
    let url = content.button.as_ref().map(|button| button.url.as_str());
    let image = content.image_url.as_deref();
    let shop_name: String = letterhead.shop_name.chars().take(65).collect();
    let shop_name = Pattern::literal(&shop_name);
    let title = content.title.as_ref().unwrap_or(&shop_name);

    let mut form = Form::new(Escape::Json);
    form.raw(r#""notification":{"title":""#).pattern(title, shop_url);
    form.raw(r#"","body":""#).pattern(&content.text, shop_url).raw(r#"""#);
    member(&mut form, r#","image":""#, image, r#"""#);
    form.raw(r#"},"data":{"broadcast_id":""#)
        .text(&letterhead.broadcast.to_string());
    form.raw(r#"","delivery":""#).blank(Blank::Key).raw(r#"""#);
    member(&mut form, r#","url":""#, url, r#"""#);
    form.raw(r#"},"android":{"priority":"HIGH","ttl":""#).raw(LIFETIME);
    form.raw(r#"","collapse_key":""#).raw(&mark);
    form.raw(r#"","notification":{"tag":""#).raw(&mark).raw(r#""}},"#);
    form.raw(r#""apns":{"headers":{"apns-priority":"10","apns-collapse-id":""#)
        .raw(&mark);
    form.raw(r#""},"payload":{"aps":{"mutable-content":1}}"#);
    member(&mut form, r#","fcm_options":{"image":""#, image, r#""}"#);
    form.raw("}");
    member(&mut form, r#","webpush":{"fcm_options":{"link":""#, url, r#""}}"#);
    form.raw(r#","fcm_options":{"analytics_label":""#)
        .raw(&mark)
        .raw(r#""}"#);
    form
}

fn member(form: &mut Form, before: &str, value: Option<&str>, after: &str) {
    if let Some(value) = value {
        form.raw(before).text(value).raw(after);
    }
}
