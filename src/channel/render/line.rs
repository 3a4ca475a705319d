//! LINE messages (pure): text, image and text as two bubbles, or a Flex bubble with a button.

use super::form::{Escape, Form};
use crate::channel::Content;

/// The `messages` of a request.
///
/// LINE's own button template allows only 60 characters beside an image, hence the Flex bubble.
pub(super) fn form(content: &Content, shop_url: &str) -> Form {
    let mut form = Form::new(Escape::Json);
    let text = &content.text;
    match (&content.button, &content.image_url) {
        (None, image) => {
            form.raw("[");
            if let Some(image) = image {
                form.raw(r#"{"type":"image","originalContentUrl":""#)
                    .text(image);
                form.raw(r#"","previewImageUrl":""#)
                    .text(image)
                    .raw(r#""},"#);
            }
            form.raw(r#"{"type":"text","text":""#)
                .pattern(text, shop_url)
                .raw(r#""}]"#);
        }
        (Some(button), image) => {
            form.raw(r#"[{"type":"flex","altText":""#)
                .pattern(text, shop_url);
            form.raw(r#"","contents":{"type":"bubble","#);
            if let Some(image) = image {
                form.raw(r#""hero":{"type":"image","url":""#).text(image);
                form.raw(r#"","size":"full","aspectRatio":"20:13","aspectMode":"cover","#);
                form.raw(r#""action":{"type":"uri","uri":""#)
                    .text(&button.url)
                    .raw(r#""}},"#);
            }
            form.raw(r#""body":{"type":"box","layout":"vertical","contents":"#);
            form.raw(r#"[{"type":"text","text":""#)
                .pattern(text, shop_url);
            form.raw(r#"","wrap":true}]},"footer":{"type":"box","layout":"vertical","contents":"#);
            form.raw(r#"[{"type":"button","style":"primary","action":{"type":"uri","label":""#);
            form.text(&button.label)
                .raw(r#"","uri":""#)
                .text(&button.url);
            form.raw(r#""}}]}}}]"#);
        }
    }
    form
}
