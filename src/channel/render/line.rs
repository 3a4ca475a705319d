//! LINE messages (pure): text, image and text as two bubbles, or a Flex bubble with a button.

use carillon_jobs::BroadcastId;

use super::form::{Escape, Form};
use crate::channel::Content;

/// The members of a request after `to`: the messages, and the unit LINE counts openings and clicks by.
///
/// LINE's own button template allows only 60 characters beside an image, hence the Flex bubble.
pub(super) fn form(content: &Content, broadcast: BroadcastId, shop_url: &str) -> Form {
    let mut form = Form::new(Escape::Json);
    form.raw(r#""messages":"#);
    let text = &content.text;
    match (&content.button, &content.image_url) {
        (None, image) => {
            form.raw("[");
            if let Some(image) = image {
                form.raw(r#"{"type":"image","originalContentUrl":""#).text(image);
                form.raw(r#"","previewImageUrl":""#).text(image).raw(r#""},"#);
            }
            form.raw(r#"{"type":"text","text":""#)
                .pattern(text, shop_url)
                .raw(r#""}]"#);
        }
        (Some(button), image) => {
            form.raw(r#"[{"type":"flex","altText":""#).pattern(text, shop_url);
            form.raw(r#"","contents":{"type":"bubble","#);
            if let Some(image) = image {
                form.raw(r#""hero":{"type":"image","url":""#).text(image);
                form.raw(r#"","size":"full","aspectRatio":"20:13","aspectMode":"cover","#);
                form.raw(r#""action":{"type":"uri","uri":""#)
                    .text(&button.url)
                    .raw(r#""}},"#);
            }
            form.raw(r#""body":{"type":"box","layout":"vertical","contents":"#);
            form.raw(r#"[{"type":"text","text":""#).pattern(text, shop_url);
            form.raw(r#"","wrap":true}]},"footer":{"type":"box","layout":"vertical","contents":"#);
            form.raw(r#"[{"type":"button","style":"primary","action":{"type":"uri","label":""#);
            form.text(&button.label).raw(r#"","uri":""#).text(&button.url);
            form.raw(r#""}}]}}}]"#);
        }
    }
    form.raw(r#","customAggregationUnits":[""#)
        .raw(&unit(broadcast))
        .raw(r#""]"#);
    form
}

/// A unit's name has at most 30 letters, digits and underscores: an id in base 36 has 25.
fn unit(broadcast: BroadcastId) -> String {
    let mut rest = broadcast.0.as_u128();
    let mut digits = Vec::with_capacity(25);
    while rest > 0 {
        let digit = u32::try_from(rest % 36).unwrap_or_default();
        digits.extend(char::from_digit(digit, 36));
        rest /= 36;
    }
    let digits: String = digits.into_iter().rev().collect();
    format!("bc_{digits}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_unit_name_fits_the_limit_of_line_for_every_id() {
        assert_eq!(unit(BroadcastId(Uuid::from_u128(36 * 35 + 7))), "bc_z7");
        assert_eq!(unit(BroadcastId(Uuid::max())), "bc_f5lxx1zz5pnorynqglhzmsp33");
    }
}
