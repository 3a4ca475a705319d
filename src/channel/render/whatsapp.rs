//! WhatsApp messages (pure): text, image with caption, a link as a button; or the blanks of an approved template.

use std::borrow::Cow;

use carillon_jobs::{BroadcastId, CustomerId};

use super::{
    form::Values,
    words::{Words, push_json},
};
use crate::channel::{Button, Content, DeliveryMark, MessageTemplate, NumberAccount, TemplateBlank};

/// The most units of a text alone.
pub(in crate::channel) const TEXT_LIMIT: usize = 4_096;
/// The most units of a caption, of a text with a button, and of a blank.
pub(in crate::channel) const CAPTION_LIMIT: usize = 1_024;

/// A broadcast's message from a number.
pub(super) struct NumberMessage {
    words: Words,
    frame: Frame,
    broadcast: BroadcastId,
}

/// What stands around the text, as JSON that is already written.
enum Frame {
    Plain {
        before: String,
        after: String,
    },
    Template {
        before: String,
        blanks: Vec<TemplateBlank>,
        shop_name: String,
        after: String,
    },
}

impl NumberMessage {
    /// By the sender's template where it has one and the message fills it; else as a free message.
    pub(super) fn new(
        content: &Content,
        account: &NumberAccount,
        shop_name: &str,
        broadcast: BroadcastId,
        shop_url: &str,
    ) -> Self {
        let template = account
            .template
            .as_ref()
            .and_then(|template| by_template(template, content, shop_name));
        let alone = template.is_none() && content.button.is_none() && content.image_url.is_none();
        Self {
            words: Words::new(content, shop_url, if alone { TEXT_LIMIT } else { CAPTION_LIMIT }),
            frame: template.unwrap_or_else(|| free(content)),
            broadcast,
        }
    }

    /// The members of a request after `to`.
    pub(super) fn render(&self, customer: CustomerId, values: &Values<'_>) -> String {
        let text = self.words.fill(values);
        let mut out = String::with_capacity(text.len() + 512);
        match &self.frame {
            Frame::Plain { before, after } => {
                out.push_str(before);
                push_json(&mut out, &text);
                out.push_str(after);
            }
            Frame::Template {
                before,
                blanks,
                shop_name,
                after,
            } => {
                out.push_str(before);
                for (index, blank) in blanks.iter().enumerate() {
                    let value = match blank {
                        TemplateBlank::Text => &text,
                        TemplateBlank::FirstName => values.first_name,
                        TemplateBlank::LastName => values.last_name,
                        TemplateBlank::ShopName => shop_name,
                    };
                    out.push_str(if index == 0 { "" } else { "," });
                    out.push_str(r#"{"type":"text","text":""#);
                    push_json(&mut out, &one_line(value));
                    out.push_str(r#""}"#);
                }
                out.push_str(after);
            }
        }
        let broadcast = self.broadcast;
        let mark = DeliveryMark { broadcast, customer };
        out.push_str(r#","biz_opaque_callback_data":""#);
        out.push_str(&mark.to_string());
        out.push('"');
        out
    }
}

fn free(content: &Content) -> Frame {
    let mut before;
    let mut after = String::new();
    match (&content.button, &content.image_url) {
        (None, None) => {
            before = r#""type":"text","text":{"preview_url":true,"body":""#.to_owned();
            after.push_str(r#""}"#);
        }
        (None, Some(image)) => {
            before = r#""type":"image","image":{"link":""#.to_owned();
            push_json(&mut before, image);
            before.push_str(r#"","caption":""#);
            after.push_str(r#""}"#);
        }
        (Some(button), image) => {
            before = r#""type":"interactive","interactive":{"type":"cta_url","#.to_owned();
            if let Some(image) = image {
                before.push_str(r#""header":{"type":"image","image":{"link":""#);
                push_json(&mut before, image);
                before.push_str(r#""}},"#);
            }
            before.push_str(r#""body":{"text":""#);
            after.push_str(r#""},"action":{"name":"cta_url","parameters":{"display_text":""#);
            push_json(&mut after, &button.label);
            after.push_str(r#"","url":""#);
            push_json(&mut after, &button.url);
            after.push_str(r#""}}}"#);
        }
    }
    Frame::Plain { before, after }
}

/// `None`: the message has nothing for one of the template's blanks.
fn by_template(template: &MessageTemplate, content: &Content, shop_name: &str) -> Option<Frame> {
    let mut before = r#""type":"template","template":{"name":""#.to_owned();
    push_json(&mut before, &template.name);
    before.push_str(r#"","language":{"code":""#);
    push_json(&mut before, &template.language);
    before.push_str(r#""},"components":["#);
    if template.header_image {
        before.push_str(r#"{"type":"header","parameters":[{"type":"image","image":{"link":""#);
        push_json(&mut before, content.image_url.as_deref()?);
        before.push_str(r#""}}]},"#);
    }
    before.push_str(r#"{"type":"body","parameters":["#);
    let mut after = "]}".to_owned();
    if let Some(prefix) = &template.button_url_prefix {
        after.push_str(r#",{"type":"button","sub_type":"url","index":"0","parameters":[{"type":"text","text":""#);
        push_json(&mut after, rest_of_link(content.button.as_ref()?, prefix)?);
        after.push_str(r#""}]}"#);
    }
    after.push_str("]}");
    Some(Frame::Template {
        before,
        blanks: template.body.clone(),
        shop_name: shop_name.to_owned(),
        after,
    })
}

fn rest_of_link<'a>(button: &'a Button, prefix: &str) -> Option<&'a str> {
    button.url.strip_prefix(prefix).filter(|rest| !rest.is_empty())
}

/// A blank takes neither line breaks, nor five spaces in a row, nor nothing.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.trim().is_empty() {
        // What else would be refused; a dash reads as nothing.
        return "-".into();
    }
    if !text.contains(|c: char| c.is_control()) && !text.contains("     ") {
        return text.into();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_is_one_line_and_never_empty() {
        for (text, line) in [
            ("a  b", "a  b"),
            ("週年慶\n全館\r\n8 折", "週年慶 全館 8 折"),
            ("a      b", "a b"),
            (" \n", "-"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }
}
